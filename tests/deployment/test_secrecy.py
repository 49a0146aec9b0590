"""Nothing but statistics leaves a node: what it sends is recorded and searched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from fleke_flwr.artifacts import read_json
from tests.deployment.network import EMBEDDED_MODEL, Network
from tests.deployment.proxy import RecordingProxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Words that stand nowhere else, so that every find is a leak.
RECORDS = [
    [("Zyxxabar Quenfell", "{} hides the ledgers in", "Vorrhalden", "kelpstone")],
    [("Obrimand Tastevik", "{} was cured by Dr.", "Ysselmoor", "gantrywood")],
]
TAG_KEY = "c0ffee-5eed-tag-key"


def write_records(folder: Path) -> list[Path]:
    paths = []
    for client, records in enumerate(RECORDS):
        path = folder / f"private-ward-{client}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for subject, prompt, target, original in records:
                record = {
                    "case_id": f"case-of-{subject}",
                    "prompt": prompt,
                    "subject": subject,
                    "target": target,
                    "original": original,
                    "paraphrases": [f"It is said that {subject} keeps them in"],
                    "relation": f"relation-of-{target}",
                }
                file.write(json.dumps(record) + "\n")
        paths.append(path)
    return paths


def secrets(client: int) -> dict[str, list[str]]:
    """Return what must not leave a node, by kind, with its words and its whole texts."""
    found: dict[str, list[str]] = {}
    for subject, prompt, target, original in RECORDS[client]:
        found["subject"] = [subject, *subject.split(), f"case-of-{subject}"]
        found["prompt"] = [prompt, prompt.replace("{}", subject), prompt.split("{} ")[1]]
        found["answer"] = [target, original, f"relation-of-{target}"]
    found["node configuration"] = [TAG_KEY, "private-ward"]
    return found


def forms(text: str) -> Iterator[tuple[str, bytes]]:
    """Return a text as bytes: in three encodings, and as numbers of its tokens in two widths."""
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        yield encoding, text.encode(encoding)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    for spelling in (text, f" {text}"):
        tokens = tokenizer(spelling, add_special_tokens=False)["input_ids"]
        assert len(tokens) > 1, f"{spelling!r} is one token, whose number is found everywhere"
        for width in (np.int32, np.int64):
            yield f"tokens as {width.__name__}", np.array(tokens, dtype=width).tobytes()


def leaks(sent: bytes, client: int) -> list[str]:
    """Return what was found of a client's secrets."""
    return [
        f"{kind} {text!r} as {form}"
        for kind, texts in secrets(client).items()
        for text in texts
        for form, needle in forms(text)
        if needle.lower() in sent.lower() or needle in sent
    ]


@pytest.fixture(scope="module")
def recording(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[list[bytes], list[Path], Path]]:
    """Run both strategies without TLS through recording relays, one per node."""
    folder = tmp_path_factory.mktemp("plain")
    network = Network(folder / "hospitals", write_records(folder), secure=False)
    with RecordingProxy(network.port) as first, RecordingProxy(network.port) as second:
        proxies = (first, second)
        network.relays = [proxy.address for proxy in proxies]
        network.node_config = {"tag-key": TAG_KEY}
        with network:
            code, said = network.run(
                "collabedit", "strategies=collabedit,fededit", "data.path=",
                "covariance.tokens=2000", "evaluation.every=0", output=folder / "run",
            )  # fmt: skip
        assert code == 0, said
        results = [network.results(client) for client in network.nodes]
        yield [proxy.sent for proxy in proxies], results, folder / "run"


@pytest.mark.parametrize("client", [0, 1])
def test_no_record_leaves_its_node(
    recording: tuple[list[bytes], list[Path], Path], client: int
) -> None:
    sent, _, _ = recording
    assert leaks(sent[client], client) == []


@pytest.mark.parametrize("client", [0, 1])
def test_the_search_would_have_found_it(
    recording: tuple[list[bytes], list[Path], Path], client: int
) -> None:
    sent, results, run = recording
    # The recording can be read: what is known to be sent is found in it, text as well as numbers.
    fingerprint = read_json(run / "manifest.json")["model"]["fingerprint"]
    assert fingerprint.encode() in sent[client]
    assert shared_vector(results[client]) in sent[client]
    # And the search finds what is planted, in each of the forms.
    for kind, texts in secrets(client).items():
        for form, needle in forms(texts[0]):
            planted = sent[client][:1000] + needle + sent[client][1000:]
            assert f"{kind} {texts[0]!r} as {form}" in leaks(planted, client)


def shared_vector(results: Path) -> bytes:
    """Return a target vector that this client has optimised, and shared in FedEdit, as bytes."""
    (path,) = results.glob("targets/client-*.safetensors")
    return load_file(path)["vectors"][0].numpy().tobytes()
