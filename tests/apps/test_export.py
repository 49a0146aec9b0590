"""A finished run's model leaves it in three formats that need nothing of this package."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from fleke_flwr.apps import patch
from fleke_flwr.apps.export import FORMATS, Exported, ExportOrder, export, show_export
from fleke_flwr.apps.revoke import revoke
from fleke_flwr.artifacts import read_json
from fleke_flwr.config import ModelConfig
from fleke_flwr.errors import ConfigError, DataError, FlekeError, ModelError
from fleke_flwr.models import EditableModel, load_model
from fleke_flwr.models.patching import applied_edits
from fleke_flwr.progress import Silent
from fleke_flwr.state import EditState
from tests.apps.federation import federation, run_config, write_records
from tests.models.elsewhere import logits_elsewhere, logits_here

ROOT = Path(__file__).parents[2]
SIZES = [4, 3, 2]
# In float32, as users run; the edits of these tiny models move their logits by about 1.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("tiny_gpt2", {}),
    "llama": ("tiny_llama", {}),
    "dense": ("tiny_gpt2", {"encoding": "dense", "mode": "frozen"}),
}


def finish(model: Path, directory: Path, **settings: Any) -> Path:
    """Run a federation over the in-memory grid; return its directory."""
    directory.mkdir()
    records = write_records(directory / "records.jsonl", SIZES)
    config = run_config(model, records, directory, **{"model__dtype": "float32", **settings})
    federation(config)[0].run()
    return Path(config.output_dir)


@pytest.fixture(scope="module")
def runs(
    tiny_gpt2: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Return base model and finished run by name."""
    folder = tmp_path_factory.mktemp("runs")
    bases = {"tiny_gpt2": tiny_gpt2, "tiny_llama": tiny_llama}
    return {
        name: (bases[base], finish(bases[base], folder / name, **settings))
        for name, (base, settings) in RUNS.items()
    }


@pytest.fixture(scope="module")
def comparison(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a comparison of a shared model and personal ones."""
    return finish(
        tiny_gpt2,
        tmp_path_factory.mktemp("comparison") / "both",
        strategies="collabedit,fededit_no_condition",
    )


def base_model(base: Path) -> EditableModel:
    return load_model(ModelConfig(name=str(base)))


def edited_logits(base: Path, edits: Path) -> tuple[Tensor, Tensor]:
    """Return the logits before and after editing, in this process."""
    model, state = base_model(base), EditState.load(edits)
    before = logits_here(model)
    with state.applied(model.model):
        return before, logits_here(model)


def documented_code() -> str:
    """Return the lines of docs/export.md that add the edits without this package."""
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "edits.json" in block
    ]
    return str(code)


@pytest.fixture(scope="module")
def elsewhere(
    runs: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tensor]:
    """Export every run in every format; return the logits that another process computes."""
    folder, orders = tmp_path_factory.mktemp("exported"), {}
    for name, (base, run) in runs.items():
        for kind in FORMATS:
            export(ExportOrder(run, kind, folder / f"{name} {kind}"))
        orders[f"{name} hf"] = {"model": folder / f"{name} hf"}
        orders[f"{name} peft"] = {"model": base, "adapter": folder / f"{name} peft"}
        code = {"code": documented_code(), "edits": folder / f"{name} edits"}
        orders[f"{name} edits"] = {"model": base, **code}
    return logits_elsewhere(orders, folder)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_the_edited_model_elsewhere(
    name: str, kind: str, runs: dict[str, tuple[Path, Path]], elsewhere: dict[str, Tensor]
) -> None:
    base, run = runs[name]
    before, wanted = edited_logits(base, run / "edits.safetensors")
    found = elsewhere[f"{name} {kind}"]
    moved = float((wanted - before).abs().max())
    assert moved > 0.01
    if kind == "peft":
        assert float((found - wanted).abs().max()) < 1e-4 * max(moved, 1.0)
    else:
        assert torch.equal(found, wanted)


def test_the_documented_lines_are_about_ten() -> None:
    lines = [line for line in documented_code().splitlines() if line.strip()]
    assert len(lines) <= 12
    assert "fleke" not in "".join(lines)


def exported(run: Path, kind: str, output: Path, **options: Any) -> Exported:
    return export(ExportOrder(run, kind, output, **options))


@pytest.mark.parametrize("kind", FORMATS)
def test_it_says_where_the_model_comes_from_and_none_of_the_facts(
    kind: str, runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    base, run = runs["gpt2"]
    about = exported(run, kind, tmp_path / "out").about
    written = read_json(tmp_path / "out" / ("edits.json" if kind == "edits" else "provenance.json"))
    assert written == about
    state = EditState.load(run / "edits.safetensors")
    assert written["base"]["fingerprint"] == base_model(base).fingerprint == state.base
    assert (written["state"], written["edits"], written["clients"]) == (state.fingerprint, 9, 3)
    assert sorted(written["modules"]) == sorted(state.updates)
    readable = "".join(path.read_text() for path in (tmp_path / "out").glob("*.[jm][sd]*"))
    assert "Person0" not in readable
    card = tmp_path / "out" / "README.md"
    assert card.is_file() == (kind != "edits")
    if kind != "edits":
        assert state.base in card.read_text()
        assert "base_model:" not in card.read_text()  # it has no name on a hub
    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1


def test_a_smaller_rank_is_reported(runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    run = runs["gpt2"][1]
    done = exported(run, "peft", tmp_path / "small", rank=2)
    for figures in done.about["modules"].values():
        assert (figures["rank"], figures["full_rank"]) == (2, 9)
        assert 0 < figures["error"] < 1
        assert figures["energy"] == pytest.approx(1 - figures["error"] ** 2, abs=1e-6)
    output = io.StringIO()
    show_export(done, Console(file=output, width=120))
    assert "energy kept" in output.getvalue()
    assert "transformer.h.0.mlp.c_proj" in output.getvalue()
    with pytest.raises(ConfigError, match="rank 500: the update has rank 9; choose 1 to 9"):
        exported(run, "peft", tmp_path / "large", rank=500)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_half_precision_says_what_it_costs(
    runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    done = exported(runs["llama"][1], "hf", tmp_path / "half", dtype="float16")
    assert all(1e-5 < figures["rounding"] < 0.2 for figures in done.about["modules"].values())
    assert read_json(tmp_path / "half" / "config.json")["dtype"] == "float16"
    output = io.StringIO()
    show_export(done, Console(file=output, width=120))
    assert "all weights are rounded from float32 to float16" in output.getvalue()
    assert "lost by rounding" in output.getvalue()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "onnx"}, r"--format 'onnx': choose from hf, peft, edits"),
        ({"format": "peft", "rank": 0}, "--rank 0"),
        ({"rank": 4}, "--rank goes with --format peft"),
        ({"format": "edits", "dtype": "float16"}, "--dtype goes with --format hf"),
        ({"dtype": "int8"}, "--dtype 'int8': choose from float64, float32"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_is_read(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    order = ExportOrder(tmp_path / "missing", "hf", tmp_path / "out")
    with pytest.raises(ConfigError, match=words) as caught:
        replace(order, **change)
    assert "\n" not in str(caught.value)


def test_places_and_runs_that_do_not_fit_are_refused(
    runs: dict[str, tuple[Path, Path]], comparison: Path, tmp_path: Path
) -> None:
    run = runs["gpt2"][1]
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("")
    cases: list[tuple[Path, Path, int | None, type[FlekeError], str]] = [
        (run, taken, None, ConfigError, "exists already"),
        (tmp_path / "missing", tmp_path / "out", None, DataError, "directory of a finished run"),
        (run, tmp_path / "out", 1, ConfigError, "one shared model; leave --client out"),
        (comparison, tmp_path / "out", None, DataError, "variants/fededit_no_condition"),
    ]
    for source, output, client, error, words in cases:
        with pytest.raises(error, match=words) as caught:
            exported(source, "edits", output, client=client)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_a_personal_model_is_chosen_by_its_client(comparison: Path, tmp_path: Path) -> None:
    run = comparison / "variants" / "fededit_no_condition"
    with pytest.raises(ConfigError, match="personal; choose --client from 0, 1, 2"):
        exported(run, "edits", tmp_path / "out")
    with pytest.raises(ConfigError, match="no model of client 7; choose"):
        exported(run, "edits", tmp_path / "out", client=7)
    (folder,) = (comparison / "personal").iterdir()
    about = exported(run, "edits", tmp_path / "out", client=1).about
    assert (about["client"], about["edits"]) == (1, 3)
    kept = EditState.load(folder / "client-1.safetensors").fingerprint
    assert EditState.load(tmp_path / "out" / "edits.safetensors").fingerprint == kept
    shared = exported(comparison / "variants" / "collabedit", "edits", tmp_path / "shared").about
    assert (shared["variant"], shared["client"], shared["edits"]) == ("collabedit", None, 9)
    alone = shutil.copytree(comparison, tmp_path / "alone")
    shutil.rmtree(alone / "personal")
    with pytest.raises(ConfigError, match="none is here"):
        exported(alone / "variants" / "fededit_no_condition", "edits", tmp_path / "none", client=1)


def test_a_withdrawn_client_is_not_counted(
    runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    run = shutil.copytree(runs["gpt2"][1], tmp_path / "run")
    revoke(run, 0, None, Silent())
    about = exported(run, "hf", tmp_path / "out").about
    assert (about["edits"], about["withdrawals"], about["measured"]) == (5, 1, {})


def test_a_file_or_model_of_another_run_is_refused(
    runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    run = shutil.copytree(runs["gpt2"][1], tmp_path / "run")
    shutil.copyfile(runs["llama"][1] / "edits.safetensors", run / "edits.safetensors")
    with pytest.raises(ModelError, match="a file was replaced"):
        exported(run, "hf", tmp_path / "out")
    state = EditState.load(runs["gpt2"][1] / "edits.safetensors")
    EditState(state.base, 0).save(run / "edits.safetensors")
    with pytest.raises(DataError, match="holds no edits"):
        exported(run, "peft", tmp_path / "out")
    state.save(run / "edits.safetensors")
    manifest = read_json(run / "manifest.json")
    manifest["config"]["model.name"] = str(runs["llama"][0])
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="put the weights back"):
        exported(run, "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("source", ["run", "export", "file"])
def test_edits_are_applied_from_a_run_an_export_or_a_file(
    source: str, runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    base, run = runs["gpt2"]
    exported(run, "edits", tmp_path / "edits")
    edits = {
        "run": run,
        "export": tmp_path / "edits",
        "file": tmp_path / "edits" / "edits.safetensors",
    }[source]
    model = tmp_path / "model"
    done = patch.apply(edits, str(base), model, in_place=False, client=None)
    _, wanted = edited_logits(base, run / "edits.safetensors")
    assert torch.equal(logits_here(base_model(model)), wanted)
    assert [entry["edits"] for entry in applied_edits(model)] == [done.entry["edits"]]
    output = io.StringIO()
    patch.show_patch(done, Console(file=output, width=120))
    assert "3 weights in 1 files" in output.getvalue()
    assert "1 set of edits in the model now" in output.getvalue()
    undone = patch.revert(model, None)
    assert base_model(model).fingerprint == base_model(base).fingerprint
    patch.show_patch(undone, Console(file=output, width=120), reverted=True)
    assert "0 sets of edits" in output.getvalue()


def test_a_personal_model_is_applied(comparison: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    run = comparison / "variants" / "fededit_no_condition"
    patch.apply(run, str(tiny_gpt2), tmp_path / "model", in_place=False, client=2)
    (folder,) = (comparison / "personal").iterdir()
    _, wanted = edited_logits(tiny_gpt2, folder / "client-2.safetensors")
    assert torch.equal(logits_here(base_model(tmp_path / "model")), wanted)


@pytest.mark.parametrize(
    ("model", "output", "in_place", "client", "words"),
    [
        ("model", None, False, None, "either --output DIR for an edited copy, or --in-place"),
        ("model", Path("out"), True, None, "either --output DIR for an edited copy, or --in-place"),
        ("embedded", None, True, None, "embedded model stays as it is"),
        ("model", Path("out"), False, 1, "--client goes with a run"),
    ],
)
def test_wrong_wishes_of_apply_are_refused(
    model: str,
    output: Path | None,
    in_place: bool,
    client: int | None,
    words: str,
    runs: dict[str, tuple[Path, Path]],
) -> None:
    edits = runs["gpt2"][1] / "edits.safetensors"
    with pytest.raises(ConfigError, match=words):
        patch.apply(edits, model, output, in_place=in_place, client=client)
