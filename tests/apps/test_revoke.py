"""Withdrawing edits gives the model of a run that never had them, and optimises nothing."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from rich.console import Console

from fleke_flwr.apps.revoke import Revocation, revoke, show_revocation
from fleke_flwr.artifacts import read_json, read_tensors
from fleke_flwr.editors.memit import Memit
from fleke_flwr.errors import ConfigError, DataError, FlekeError, ModelError, RunError
from fleke_flwr.progress import Silent
from fleke_flwr.state import EditState
from fleke_flwr.types import EditRequest
from tests.apps.central import Central, Updates, assert_equal, joint, layer_sync
from tests.apps.federation import federation, run_config, write_records

SIZES = [4, 3, 2]
MODES = ["joint", "anticipated", "frozen", "layer_sync"]


def finish(
    model: Path, directory: Path, tamper: Any = None, **settings: Any
) -> tuple[Path, Central]:
    """Run a federation; return its directory and everything of it in one process."""
    directory.mkdir(exist_ok=True)
    records = write_records(directory / "records.jsonl", SIZES)
    config = run_config(model, records, directory, **settings)
    federation(config, tamper=tamper)[0].run()
    return Path(config.output_dir), Central(config)


def withdraw(run: Path, client: int | None = None, edits: Path | None = None) -> Revocation:
    """Withdraw, with every optimisation forbidden."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a target vector was optimised")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Memit, "targets", refuse)
        return revoke(run, client, edits, Silent())


def model_of(run: Path) -> EditState:
    return EditState.load(run / "edits.safetensors")


def dense(state: EditState) -> Updates:
    return {module: update.dense() for module, update in state.updates.items()}


def requests_of(central: Central, clients: Sequence[int]) -> list[EditRequest]:
    return [
        request
        for client in clients
        for requests in central.requests(client)
        for request in requests
    ]


def write_requests(path: Path, requests: Sequence[EditRequest]) -> Path:
    lines = [
        {
            "case_id": request.case_id,
            "prompt": request.prompt,
            "subject": request.subject,
            "target": request.target,
        }
        for request in requests
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished_runs(
    tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Central]]:
    """One finished run of every mode, and dense ones; tests work on copies."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {mode: finish(tiny_gpt2, folder / mode, mode=mode) for mode in MODES}
    for mode in ("joint", "frozen"):
        runs[f"{mode} dense"] = finish(
            tiny_gpt2, folder / f"{mode}-dense", mode=mode, encoding="dense"
        )
    return runs


@pytest.fixture
def copied(finished_runs: dict[str, tuple[Path, Central]], tmp_path: Path) -> Any:
    """Return a function that copies a finished run."""

    def copy(name: str) -> tuple[Path, Central]:
        run, central = finished_runs[name]
        return Path(shutil.copytree(run, tmp_path / "copy")), central

    return copy


def without(central: Central, rest: Sequence[EditRequest], directory: Path) -> Updates:
    """Return the model of a federation that only ever had some of the edits."""
    if central.spec.mode == "joint":
        return joint(central, rest, {})
    if central.spec.mode == "layer_sync":
        return layer_sync(central, lambda _: rest, {})
    directory.mkdir()
    records = write_requests(directory / "rest.jsonl", rest)
    config = run_config(
        Path(central.config.model.name),
        records,
        directory,
        mode=central.spec.mode,
        clients=2,
        data__partition="round_robin",
        cache_dir=central.config.cache_dir,
    )
    federation(config)[0].run()
    return dense(model_of(Path(config.output_dir)))


@pytest.mark.parametrize("name", [*MODES, "joint dense", "frozen dense"])
def test_a_client_is_withdrawn_as_if_it_had_never_been_there(
    name: str, copied: Any, tmp_path: Path
) -> None:
    run, central = copied(name)
    before = model_of(run)
    done = withdraw(run, client=1)
    assert_equal(model_of(run), without(central, requests_of(central, [0, 2]), tmp_path / "rest"))
    assert (done.edits, done.before, done.after) == (
        3,
        before.fingerprint,
        model_of(run).fingerprint,
    )
    assert done.before != done.after


@pytest.mark.parametrize("name", [*MODES, "joint dense", "frozen dense"])
def test_single_edits_of_two_clients_are_withdrawn(name: str, copied: Any, tmp_path: Path) -> None:
    run, central = copied(name)
    everything = requests_of(central, [0, 1, 2])
    gone = [*everything[1:3], everything[5]]
    done = withdraw(run, edits=write_requests(tmp_path / "gone.jsonl", gone))
    rest = [request for request in everything if request not in gone]
    assert_equal(model_of(run), without(central, rest, tmp_path / "rest"))
    assert (done.client, done.edits, len(done.keys)) == (None, 3, 3)


@pytest.mark.parametrize("name", ["joint", "joint dense", "layer_sync"])
def test_withdrawals_follow_one_another(name: str, copied: Any, tmp_path: Path) -> None:
    run, central = copied(name)
    first = requests_of(central, [0])
    withdraw(run, edits=write_requests(tmp_path / "gone.jsonl", first[:1]))
    withdraw(run, client=2)
    rest = [*first[1:], *requests_of(central, [1])]
    assert_equal(model_of(run), without(central, rest, tmp_path / "rest"))
    entries = read_json(run / "manifest.json")["revocations"]
    assert [(entry["client"], entry["edits"]) for entry in entries] == [(None, 1), (2, 2)]
    assert entries[0]["after"] == entries[1]["before"]
    assert len(read_json(run / "revocation.json")["revocations"]) == 2
    with pytest.raises(ConfigError, match=r"withdrawn already; there are clients 0, 1"):
        withdraw(run, client=2)
    with pytest.raises(DataError, match="no edits of this model"):
        withdraw(run, edits=tmp_path / "gone.jsonl")


@pytest.mark.parametrize("mode", ["joint", "layer_sync"])
def test_rounds_with_statistics_lose_a_client_from_all_of_them(
    mode: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    run, central = finish(tiny_gpt2, tmp_path / "run", mode=mode, rounds=2, memory="statistics")
    withdraw(run, client=0)
    rest = requests_of(central, [1, 2])
    assert_equal(model_of(run), without(central, rest, tmp_path / "rest"))
    gone = write_requests(tmp_path / "gone.jsonl", [rest[1], rest[-1]])
    withdraw(run, edits=gone)
    left = [rest[0], *rest[2:-1]]
    assert_equal(model_of(run), without(central, left, tmp_path / "left"))


@pytest.mark.parametrize("mode", ["joint", "layer_sync"])
def test_the_weight_of_a_dynamic_memory_stays(mode: str, tiny_gpt2: Path, tmp_path: Path) -> None:
    settings = {"mode": mode, "memory": "dynamic", "merge__beta0": 0.5}
    run, central = finish(tiny_gpt2, tmp_path / "run", **settings)
    central.priors = {module: 0.5 * prior for module, prior in central.priors.items()}
    withdraw(run, client=1)
    assert_equal(model_of(run), without(central, requests_of(central, [0, 2]), tmp_path / "rest"))


def test_what_another_client_holds_as_well_stays_its_own(tiny_gpt2: Path, tmp_path: Path) -> None:
    run, central = finish(tiny_gpt2, tmp_path / "run", data__mix=0.5, data__mix_mode="copy")
    own, others = requests_of(central, [0]), requests_of(central, [1, 2])
    shared = set(own) & set(others)
    assert shared
    done = withdraw(run, client=0)
    assert_equal(model_of(run), joint(central, others, {}))
    assert done.measured is not None
    assert done.measured["withdrawn"]["held_by_others"] == len(shared)


def test_nothing_withdrawn_stays_on_disk(copied: Any, tmp_path: Path) -> None:
    run, central = copied("joint")
    own = requests_of(central, [0])
    before, _ = read_tensors(run / "targets" / "client-0.safetensors")
    withdraw(run, client=1)
    withdraw(run, edits=write_requests(tmp_path / "gone.jsonl", own[:1]))
    sums, about = read_tensors(run / "statistics.safetensors")
    (keys,) = (tensor for name, tensor in sums.items() if name.endswith("/keys"))
    assert keys.shape[1] == torch.linalg.matrix_rank(keys) == len(own) - 1 + 2
    assert sorted(share["client"] for share in about["shares"]) == [0, 2]
    assert not (run / "targets" / "client-1.safetensors").exists()
    after, kept = read_tensors(run / "targets" / "client-0.safetensors")
    assert torch.equal(after["vectors"], before["vectors"][1:])
    assert len(kept["keys"]) == len(own) - 1
    written = "".join(path.read_text() for path in run.glob("*.json*"))
    assert own[0].subject not in written


def test_dense_sums_lose_the_rank_of_what_is_withdrawn(copied: Any) -> None:
    run, _ = copied("joint dense")
    withdraw(run, client=1)
    sums, _ = read_tensors(run / "statistics.safetensors")
    (gram,) = (tensor for name, tensor in sums.items() if name.endswith("/gram"))
    assert torch.linalg.matrix_rank(gram, hermitian=True, rtol=1e-10) == 4 + 2


def test_what_the_models_know_is_measured(copied: Any) -> None:
    run, _ = copied("joint")
    metrics = (run / "metrics.json").read_text()
    done = withdraw(run, client=0)
    assert done.measured is not None
    withdrawn, remaining = done.measured["withdrawn"], done.measured["remaining"]
    assert withdrawn["before"] != withdrawn["base"] != withdrawn["after"]
    assert remaining["before"]["efficacy"] is not None
    assert done.measured["remaining"]["edits"] == 5
    assert (run / "metrics.json").read_text() == metrics
    (kept,) = read_json(run / "revocation.json")["revocations"]
    assert kept["withdrawn"] == done.measured["withdrawn"]
    output = io.StringIO()
    show_revocation(done, Console(file=output, width=100))
    assert "4 edits of client 0 withdrawn" in output.getvalue()
    assert "probability of the target" in output.getvalue()


def test_the_last_edits_can_go_too(copied: Any) -> None:
    for name in ("joint", "layer_sync"):
        run, _ = copied(name)
        for client in range(3):
            done = withdraw(run, client=client)
        assert done.measured is not None
        assert done.measured["withdrawn"]["after"] == done.measured["withdrawn"]["base"]
        assert done.measured["withdrawn"]["before"] != done.measured["withdrawn"]["base"]
        assert all(float(update.norm()) == 0 for update in dense(model_of(run)).values())
        shutil.rmtree(run)


def test_without_records_a_whole_client_goes_from_factors_alone(
    copied: Any, tmp_path: Path
) -> None:
    run, central = copied("joint")
    shutil.rmtree(run / "targets")
    done = withdraw(run, client=1)
    assert (done.edits, done.measured) == (3, None)
    assert_equal(model_of(run), joint(central, requests_of(central, [0, 2]), {}))
    with pytest.raises(DataError, match="deployment"):
        withdraw(run, edits=write_requests(tmp_path / "gone.jsonl", requests_of(central, [0])))


def test_single_edits_need_the_kept_targets_of_the_rest(copied: Any, tmp_path: Path) -> None:
    run, central = copied("joint")
    (run / "targets" / "client-0.safetensors").unlink()
    gone = write_requests(tmp_path / "gone.jsonl", requests_of(central, [0])[:1])
    before = model_of(run).fingerprint
    with pytest.raises(DataError, match="lacks the target vectors of 3 of 3 edits"):
        withdraw(run, edits=gone)
    assert model_of(run).fingerprint == before
    assert "revocations" not in read_json(run / "manifest.json")


def test_edits_that_nobody_made_are_named(copied: Any, tmp_path: Path) -> None:
    run, _ = copied("joint")
    strange = EditRequest("x", "{} works as a", "Nobody Known", "baker")
    with pytest.raises(DataError, match="Nobody Known works as a -> baker"):
        withdraw(run, edits=write_requests(tmp_path / "gone.jsonl", [strange]))


@pytest.mark.parametrize(
    ("client", "edits", "words"),
    [
        (7, None, "does not exist; there are clients 0, 1, 2"),
        (None, None, "either --client N or --edits FILE"),
        (1, Path("gone.jsonl"), "either --client N or --edits FILE"),
    ],
)
def test_wrong_wishes_are_refused(
    client: int | None, edits: Path | None, words: str, copied: Any
) -> None:
    run, _ = copied("joint")
    with pytest.raises(ConfigError, match=words):
        withdraw(run, client, edits)


def test_a_comparison_names_its_variants(tiny_gpt2: Path, tmp_path: Path) -> None:
    run, central = finish(tiny_gpt2, tmp_path / "run", strategies="collabedit,global,edit_avg")
    with pytest.raises(DataError, match=r"variants/collabedit, .*variants/global"):
        withdraw(run, client=1)
    with pytest.raises(RunError, match=r"pools all records.*strategy = collabedit"):
        withdraw(run / "variants" / "global", client=1)
    with pytest.raises(RunError, match="does not solve sums"):
        withdraw(run / "variants" / "edit_avg", client=1)
    written = {path.parent.name for path in run.glob("variants/*/statistics.safetensors")}
    assert written == {"collabedit"}
    withdraw(run / "variants" / "collabedit", client=1)
    rest = joint(central, requests_of(central, [0, 2]), {})
    assert_equal(model_of(run / "variants" / "collabedit"), rest)
    assert read_json(run / "manifest.json")["revocations"][0]["variant"] == "collabedit"
    pooled, about = read_tensors(run / "targets" / "pooled.safetensors")
    assert len(pooled["vectors"]) == len(about["keys"]) == 6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sweeps": 2}, "run it with sweeps = 1"),
        ({"rounds": 2}, "run it with memory = statistics"),
        ({"rounds": 2, "memory": "dynamic"}, "run it with memory = statistics"),
        ({"mode": "local_sequential"}, "run it with mode = joint"),
    ],
)
def test_runs_that_built_on_the_edits_are_refused(
    settings: dict[str, Any], words: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    run, _ = finish(tiny_gpt2, tmp_path / "run", **settings)
    with pytest.raises(RunError, match=words):
        withdraw(run, client=1)
    assert not (run / "statistics.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"conflicts": {"strengthened": 2}}, RunError, "without conflict.policy"),
        ({"overlap": {"skipped": 3}}, RunError, "overlap.action = send"),
    ],
)
def test_runs_whose_clients_reacted_to_others_are_refused(
    change: dict[str, Any], error: type[FlekeError], words: str, copied: Any
) -> None:
    run, _ = copied("joint")
    row = read_json(run / "metrics.json")
    (run / "metrics.json").write_text(json.dumps({**row, **change}))
    with pytest.raises(error, match=words):
        withdraw(run, client=1)


def test_a_client_that_failed_has_nothing_to_withdraw(tiny_gpt2: Path, tmp_path: Path) -> None:
    def lose(partition: int, order: Message, reply: Message) -> Message | None:
        return None if partition == 2 and order.metadata.message_type == "train.edit" else reply

    run, central = finish(
        tiny_gpt2, tmp_path / "run", lose, mode="joint", min_clients=2, timeout=0.3
    )
    with pytest.raises(DataError, match="client 2 holds no edit of this model"):
        withdraw(run, client=2)
    gone = write_requests(tmp_path / "gone.jsonl", requests_of(central, [2])[:1])
    with pytest.raises(DataError, match="no edits of this model"):
        withdraw(run, edits=gone)
    withdraw(run, client=1)
    assert_equal(model_of(run), joint(central, requests_of(central, [0]), {}))


@pytest.mark.parametrize("encoding", ["factors", "dense"])
def test_float32_sums_lose_a_client_to_rounding(
    encoding: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    run, central = finish(tiny_gpt2, tmp_path / "run", encoding=encoding, payload_dtype="float32")
    withdraw(run, client=1)
    assert_equal(model_of(run), joint(central, requests_of(central, [0, 2]), {}), 1e-3)


def test_another_covariance_is_noticed(copied: Any) -> None:
    run, _ = copied("joint")
    manifest = read_json(run / "manifest.json")
    manifest["config"]["covariance.tokens"] = 300
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="the covariance is another one now"):
        withdraw(run, client=1)


def test_layers_cannot_be_walked_again_without_a_client_that_failed(copied: Any) -> None:
    run, _ = copied("layer_sync")
    row = read_json(run / "metrics.json")
    row["history"][0]["left_out"] = {"2": "no reply within 5 s"}
    (run / "metrics.json").write_text(json.dumps(row))
    with pytest.raises(RunError, match="client 2 was left out"):
        withdraw(run, client=1)


def test_files_that_do_not_belong_together_are_refused(copied: Any) -> None:
    run, central = copied("joint")
    statistics = run / "statistics.safetensors"
    base = central.model.fingerprint
    EditState(base, 1, {}).save(run / "edits.safetensors")
    with pytest.raises(DataError, match="broken off, or a file was replaced"):
        withdraw(run, client=1)
    statistics.unlink()
    with pytest.raises(DataError, match="did not keep its sums"):
        withdraw(run, client=1)


def test_another_model_or_other_records_are_refused(copied: Any) -> None:
    run, _ = copied("joint")
    manifest = read_json(run / "manifest.json")
    other = {**manifest, "model": {**manifest["model"], "fingerprint": "other"}}
    (run / "manifest.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match="was other in the run"):
        withdraw(run, client=1)
    other = {**manifest, "data": {**manifest["data"], "fingerprint": "other"}}
    (run / "manifest.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match="put the file back"):
        withdraw(run, client=1)
