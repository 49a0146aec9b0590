"""The same edit made again follows eq. 6 of CollabEdit, on the really edited network."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from fleke_flwr.apps.priors import known_priors
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.apps.repeats import law, law_of_prompt, needed, run_repeats, spoken
from fleke_flwr.apps.reporting.picture import LIGHT
from fleke_flwr.apps.reporting.repeats import residual_by_repeat
from fleke_flwr.config import ModelConfig, RunConfig
from fleke_flwr.errors import ConfigError, DataError
from fleke_flwr.models.loading import load_model
from fleke_flwr.progress import EventFile, Silent

COPIES = 5


def write_records(path: Path, count: int = 5) -> Path:
    records = [
        {"prompt": "{} works as a", "subject": f"Person{n} Number{n}", "target": target}
        for n, target in zip(
            range(count), ["baker", "miner", "green", "red", "flute"], strict=False
        )
    ]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def run_config(model: Path, records: Path, directory: Path, **settings: Any) -> RunConfig:
    flat = {
        "model.name": str(model),
        "model.dtype": "float64",
        "data.path": str(records),
        "covariance.tokens": 2000,
        "cache-dir": str(directory / "cache"),
        "edit.steps": 4,
    }
    flat.update({key.replace("__", ".").replace("_", "-"): settings[key] for key in settings})
    return RunConfig.from_flat(flat)


def _study(model: Path, directory: Path, edits: int = 3, **settings: Any) -> dict[str, Any]:
    records = write_records(directory / "records.jsonl")
    config = run_config(model, records, directory, **settings)
    path = run_repeats(config, directory / "out", edits, COPIES, Silent())
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("editor", ["memit", "pmet"])
@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_llama"])
def test_without_other_contexts_the_network_follows_the_law(
    model: str, editor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = _study(request.getfixturevalue(model), tmp_path, editor=editor, contexts__count=0)
    for kind in ("sequential", "batch"):
        measured, predicted = (torch.tensor(found[kind][who]) for who in ("measured", "law"))
        assert measured.shape == (3, COPIES)
        assert (measured / predicted - 1).abs().max() < 1e-6, kind
    assert (torch.tensor(found["sequential"]["measured"]).diff(dim=1) < 0).all()
    assert (found["layer"], found["edits"], found["contexts"]) == (2, 3, 1)


@pytest.mark.parametrize("editor", ["memit", "pmet"])
def test_with_contexts_the_bare_prompt_follows_a_law_of_its_own(
    editor: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    found = _study(tiny_gpt2, tmp_path, editor=editor, contexts__count=3)
    assert found["contexts"] == 4
    for kind in ("sequential", "batch"):
        measured, plain, own = (
            torch.tensor(found[kind][who]) for who in ("measured", "law", "law_of_prompt")
        )
        assert (measured / own - 1).abs().max() < 1e-6, kind
        assert (measured / plain - 1).abs().max() > 1e-3, kind


def test_q_is_what_the_prior_says_of_the_key(tiny_gpt2: Path, tmp_path: Path) -> None:
    found = _study(tiny_gpt2, tmp_path, contexts__count=0)
    config = run_config(tiny_gpt2, tmp_path / "records.jsonl", tmp_path, contexts__count=0)
    model = load_model(ModelConfig(name=str(tiny_gpt2), dtype="float64"))
    spec = resolve_recipe(config, model)
    prior = known_priors(config, model, spec, Silent())[model.module_name(2)].matrix()
    ids = model.tokenizer("Person0 Number0", return_tensors="pt").input_ids
    keys: list[torch.Tensor] = []
    hook = model.projection(2).register_forward_pre_hook(
        lambda module, inputs: keys.append(inputs[0].reshape(-1, inputs[0].shape[-1])[-1])
    )
    with torch.no_grad():
        model.model(ids)
    hook.remove()
    assert found["q"][0] == pytest.approx(float(keys[0] @ torch.linalg.solve(prior, keys[0])))


@given(some.floats(1e-3, 1e3), some.integers(1, 20))
def test_a_batch_leaves_more_than_as_many_repeats(q: float, copies: int) -> None:
    (one_by_one,), (in_one_batch,) = law([q], copies)
    assert one_by_one[0] == pytest.approx(in_one_batch[0])
    assert all(a <= b * (1 + 1e-12) for a, b in zip(one_by_one, in_one_batch, strict=True))


@given(some.floats(1e-2, 1e2), some.floats(0.5, 1.5))
def test_copies_in_a_batch_level_off_where_prompt_and_mean_key_differ(
    q: float, part: float
) -> None:
    _, (many,) = law_of_prompt([q], [part * q], 20_000)
    assert many[-1] == pytest.approx(abs(1 - part), abs=1e-2)
    assert law_of_prompt([q], [q], 3)[1][0] == pytest.approx(law([q], 3)[1][0])
    assert law_of_prompt([q], [q], 3)[0][0] == pytest.approx(law([q], 3)[0][0])


def test_repeats_are_counted_until_little_is_left() -> None:
    series = [[0.5, 0.05, 0.005], [0.5, 0.25, 0.05], [0.05, 0.005, 0.0005]]
    assert needed(series, 0.1) == 2.0
    assert needed(series, 0.01) == 3.0
    assert needed(series, 1e-3) is None
    assert needed(series[:2], 0.1) == 2.5
    assert needed([[0.05, 0.005, 0.05]], 0.01) is None
    assert needed([[0.05, 0.2, 0.05]], 0.1) == 3.0


def test_the_files_say_what_was_measured(tiny_gpt2: Path, tmp_path: Path) -> None:
    records = write_records(tmp_path / "records.jsonl")
    config = run_config(tiny_gpt2, records, tmp_path, contexts__count=0)
    events = EventFile(tmp_path / "events.jsonl")
    path = run_repeats(config, tmp_path / "out", 2, COPIES, events)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {file.name for file in path.parent.iterdir()} == {
        "repeats.json", "repeats.csv", "repeats.svg", "repeats-dark.svg", "repeats.png",
    }  # fmt: skip
    assert (path.parent / "repeats.png").read_bytes().startswith(b"\x89PNG")
    with (path.parent / "repeats.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["repeats"] for line in lines] == [f"{n}.0" for n in range(COPIES + 1)]
    mean = sum(edit[0] for edit in content["batch"]["measured"]) / 2
    assert float(lines[1]["batch"]) == pytest.approx(mean)
    assert lines[0]["sequential"] == "1.0"
    told = (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    assert "layer 2 only" in told
    assert "until less than 0.01 of the residual is left: " in told
    starts = [json.loads(line) for line in told.splitlines() if '"repeats"' in line]
    total = sum(event.get("total", 0) for event in starts)
    assert total == sum(event.get("amount", 0) for event in starts) == 2 * 2 * COPIES


def test_what_is_not_reached_is_said() -> None:
    counts = {"measured": {"0.1": 2.0, "0.01": None}, "law": {"0.1": 2.5, "0.01": 4.0}}
    content = {"copies": 5, "sequential": {"repeats": counts}, "batch": {"repeats": counts}}
    first, second = spoken(content)
    assert first.endswith("is left: 2 (law: 2.5); copies in one batch: 2 (law: 2.5)")
    assert second.endswith("copies in one batch: more than 5 (law: 4)")


def test_the_picture_is_the_same_every_time() -> None:
    one_by_one, in_one_batch = law([0.5, 1.0], 4)
    study = {
        "copies": 4,
        "edits": 2,
        "layer": 3,
        "contexts": 1,
        "sequential": {"measured": one_by_one, "law": one_by_one},
        "batch": {"measured": in_one_batch, "law": in_one_batch},
    }
    picture = residual_by_repeat(study)
    assert picture.svg(LIGHT) == residual_by_repeat(study).svg(LIGHT)
    assert picture.data[2]["sequential_law"] == pytest.approx((1.5**-2 + 2.0**-2) / 2)


@pytest.mark.parametrize(
    ("edits", "copies", "error", "message"),
    [
        (0, 3, ConfigError, "0 edits, 3 copies: at least 1"),
        (2, 0, ConfigError, "2 edits, 0 copies"),
        (9, 3, DataError, "holds 5 usable records and 9"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    edits: int, copies: int, error: type[Exception], message: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_gpt2, write_records(tmp_path / "records.jsonl"), tmp_path)
    with pytest.raises(error, match=message):
        run_repeats(config, tmp_path / "out", edits, copies, Silent())
    assert not (tmp_path / "out").exists()


def test_targets_that_the_model_puts_out_already_are_refused(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="nothing to edit"):
        _study(tiny_gpt2, tmp_path, contexts__count=0, edit__stop_loss=1e9)


def test_the_model_is_left_as_it_was(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = load_model(ModelConfig(name=str(tiny_gpt2), dtype="float64"))
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    _study(tiny_gpt2, tmp_path, edits=1)
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, before[name]), name
