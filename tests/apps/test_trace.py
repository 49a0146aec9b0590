"""``fleke trace``: records, known facts, files, page, and the preset that a run accepts."""

from __future__ import annotations

import html
import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fleke_flwr.apps.locating import job
from fleke_flwr.apps.locating.job import TraceOrder, kinds_of, run_trace
from fleke_flwr.apps.locating.knowledge import Knowledge, ask
from fleke_flwr.apps.locating.records import read_facts
from fleke_flwr.apps.locating.results import (
    effects_of,
    missing_settings,
    suggestion_of,
    why_none,
    write_preset,
)
from fleke_flwr.apps.locating.sentences import run_command
from fleke_flwr.apps.preflight import read_config
from fleke_flwr.apps.presets import read_preset
from fleke_flwr.apps.recipe import resolve_recipe
from fleke_flwr.artifacts import read_json, read_tensors
from fleke_flwr.config import DataConfig, EditConfig, ModelConfig, RunConfig
from fleke_flwr.errors import ConfigError, DataError, ModelError
from fleke_flwr.locate.effects import LAST_SUBJECT
from fleke_flwr.locate.suggestion import Suggestion
from fleke_flwr.locate.tracing import Trace, TraceSettings
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Silent
from tests.conftest import PEOPLE, LoadTiny
from tests.models.test_families import poor_directory

NEEDED = [
    "ridge-weight", "learning-rate", "steps", "clamp", "weight-decay", "kl-weight", "stop-loss",
]  # fmt: skip
FAST = TraceSettings(samples=2)


@pytest.fixture
def model(load_tiny: LoadTiny, tiny_gpt2: Path) -> EditableModel:
    return load_tiny(tiny_gpt2)


def written(path: Path, records: list[object]) -> Path:
    lines = (item if isinstance(item, str) else json.dumps(item) for item in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def facts(names: list[str]) -> list[object]:
    return [{"prompt": f"{name} lives in", "subject": name} for name in names]


@pytest.fixture
def bare(tiny_gpt2: Path, tmp_path: Path) -> Path:
    """Return a model that brings no settings of its own, in a directory with a space."""
    directory = shutil.copytree(tiny_gpt2, tmp_path / "a model")
    (directory / "editing.json").unlink()
    return directory


class Counted(Silent):
    """Progress that adds up."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, phase: str, total: int) -> None:
        self.total += total

    def advance(self, phase: str, amount: int = 1) -> None:
        self.done += amount


def made(gains: list[float], behind: int = 1, kind: str = "mlp") -> Trace:
    """Return a trace whose subject, the first token, gains so much by layer."""
    scores = torch.full((1 + behind, len(gains)), 0.1, dtype=torch.float64)
    scores[0] += torch.tensor(gains, dtype=torch.float64)
    return Trace(tuple("abc"[: 1 + behind]), 0, 1, "x", 0.9, 0.1, {kind: scores})


def test_every_way_to_write_a_fact_is_read(model: EditableModel, tmp_path: Path) -> None:
    rewrite = {
        "prompt": "{} lives in", "subject": "Lena Voss", "target_new": {"str": "Dorum"},
        "target_true": {"str": "Arlen"},
    }  # fmt: skip
    records: list[object] = [
        {"known_id": 7, "prompt": "Mira Tolen lives in", "subject": "Mira Tolen",
         "attribute": "Arlen", "template": "{} lives in", "prediction": " Arlen."},
        {"prompt": "{} lives in", "subject": "Ada Karst", "target": "Borvik"},
        {"prompt": "{} lives in", "subject": "Jonas Feld"},
        {"prompt": "{} lives in", "subject": "Pavel Orrin", "target": "Dorum",
         "original": "Castra"},
        {"case_id": 3, "requested_rewrite": rewrite},
    ]  # fmt: skip
    found = read_facts(model, DataConfig(path=str(written(tmp_path / "a.jsonl", records))))
    assert [item.fact.answer for item in found.usable] == ["Arlen", "Borvik", "", "Castra", "Arlen"]
    assert found.usable[0].fact.name == "7"
    assert {item.fact.template for item in found.usable} == {"{} lives in"}
    targets = [item.case and item.case.request.target for item in found.usable]
    assert targets == [None, None, None, "Dorum", "Dorum"]


def test_what_cannot_be_traced_is_named_by_its_line(model: EditableModel, tmp_path: Path) -> None:
    records: list[object] = [
        *facts(["Ada Karst", "Ada Karst"]),
        {"prompt": "The home of Ada is", "subject": "Lena Voss"},
        "{broken",
        {"prompt": "Ada and Ada are", "subject": "Ada"},
        {"prompt": "{} is", "subject": "Ada " * 200},
        {"subject": "Ada"},
        "[1]",
    ]
    found = read_facts(model, DataConfig(path=str(written(tmp_path / "a.jsonl", records))))
    assert [item.place for item in found.usable] == ["line 1"]
    said = {
        "line 2": "asks what line 1 asks already", "line 3": "0 times", "line 4": "not valid JSON",
        "line 5": "2 times", "line 6": "longer than", "line 7": "'prompt'", "line 8": "list",
    }  # fmt: skip
    assert found.unusable.keys() == said.keys()
    assert all(text in found.unusable[place] for place, text in said.items())


def test_an_answer_that_cannot_be_judged_is_named_and_the_rest_is_traced(tmp_path: Path) -> None:
    records: list[object] = [
        {"prompt": "{} is", "subject": "Ada", "attribute": "日本"},
        {"prompt": "{} is", "subject": "Ada", "attribute": "x" * 200},
        {"prompt": "{} is" + " very" * 12, "subject": "Ada", "attribute": "x" * 50},
        {"prompt": "The home of {} is", "subject": "日本"},
        # What the lines above ask has not been asked: none of them can be used.
        {"prompt": "{} is", "subject": "Ada"},
    ]
    name = str(poor_directory(tmp_path / "model", unknown=False))
    source = str(written(tmp_path / "a.jsonl", records))
    order = TraceOrder(name, source, TraceSettings(kinds=("block",), samples=1), noise="u1.0")
    out = run_trace(order, tmp_path / "out", Console(file=io.StringIO()))
    content = read_json(out / "trace.json")
    said = {
        "line 1": "cannot express the target '日本'", "line 2": "longer than the 96",
        "line 3": "tokens, and model", "line 4": "no token of the subject",
    }  # fmt: skip
    assert content["unusable"].keys() == said.keys()
    assert all(text in content["unusable"][place] for place, text in said.items())
    assert content["counts"]["traced"] == 1


def test_facts_that_the_model_does_not_know_are_counted(
    model: EditableModel, tmp_path: Path
) -> None:
    wrong = {"prompt": "{} lives in", "subject": "Nobody", "attribute": "nothing"}
    path = written(tmp_path / "a.jsonl", [*facts(PEOPLE[:1]), wrong, *facts(PEOPLE[1:4])])
    usable = read_facts(model, DataConfig(path=str(path))).usable
    found = ask(model, usable, 2, Silent())
    assert [item.place for item in found.known] == ["line 1", "line 3"]
    assert [item.place for item in found.unknown] == ["line 2"]
    every = ask(model, usable, 0, Silent())
    assert (len(every.known), every.asked) == (4, 5)


@pytest.mark.parametrize(("limit", "total"), [(0, 3), (2, 2), (3, 3), (100, 3)])
def test_no_more_facts_are_reported_than_there_are(
    limit: int, total: int, model: EditableModel, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.jsonl", facts(PEOPLE[:3]))
    progress = Counted()
    ask(model, read_facts(model, DataConfig(path=str(path))).usable, limit, progress)
    assert (progress.total, progress.done) == (total, total)


def test_a_trace_leaves_numbers_scores_and_pictures(tiny_gpt2: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", [*facts(PEOPLE[:3]), "{broken"])
    shown = io.StringIO()
    order = TraceOrder(str(tiny_gpt2), str(source), FAST)
    out = run_trace(order, tmp_path / "out", Console(file=shown, width=200))
    content = read_json(out / "trace.json")
    assert content["counts"] == {
        "records": 4, "unusable": 1, "asked": 3, "unknown": 0, "traced": 3
    }  # fmt: skip
    assert content["unusable"].keys() == {"line 4"}
    assert content["settings"]["window"] == 1
    assert content["effects"]["block"][LAST_SUBJECT]["tokens"] == 3
    tensors, metadata = read_tensors(out / "scores.safetensors")
    assert len(tensors) == 3 * 5
    table = tensors["0.block"]
    first = metadata["facts"][0]
    assert table.shape == (len(first["tokens"]), 4)
    gained = [
        float(tensors[f"{n}.mlp"][fact["subject"][1] - 1, 2]) - fact["low"]
        for n, fact in enumerate(metadata["facts"])
    ]
    stated = content["effects"]["mlp"][LAST_SUBJECT]["aie"][2]
    assert stated == pytest.approx(sum(gained) / 3)
    text = shown.getvalue()
    assert "3 known facts traced" in text
    assert "line 4" in text
    page = (out / "trace.html").read_text(encoding="utf-8")
    assert "Average indirect effect" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert {path.name for path in (out / "report").glob("*.png")} >= {"effects.png", "fact-1.png"}
    # A random model keeps nothing anywhere.
    assert content["suggestion"] is None
    assert "is not above 0 by more than its interval" in content["why_none"]
    assert f"no layers suggested: {content['why_none']}" in text
    assert f"No layers are suggested: {content['why_none']}." in page
    assert f"<p>None: {content['why_none']}.</p>" in page
    assert not (out / "layers.toml").exists()


def test_a_single_fact_has_no_intervals_and_takes_an_old_ones_place(
    tiny_gpt2: Path, tmp_path: Path
) -> None:
    source = str(written(tmp_path / "a.jsonl", facts(PEOPLE[:2])))
    shown = io.StringIO()
    for limit in (2, 1):
        order = TraceOrder(str(tiny_gpt2), source, FAST, limit=limit)
        out = run_trace(order, tmp_path / "out", Console(file=shown, width=200))
    assert not (out / "report" / "fact-2.png").exists()
    content = read_json(out / "trace.json")
    assert content["total_effect"]["ci95"] is None
    assert content["effects"]["mlp"][LAST_SUBJECT]["ci95"] == [None] * 4
    assert content["suggestion"] is None
    assert content["why_none"].startswith("only one fact")
    page = (out / "trace.html").read_text(encoding="utf-8")
    total = f"{content['total_effect']['value']:.3f} ± –"  # noqa: RUF001
    assert total in shown.getvalue()
    assert total in page
    assert "<td>–</td>" in page  # noqa: RUF001
    assert "intervals" not in page
    lines = (out / "report" / "layers.csv").read_text(encoding="utf-8").splitlines()
    assert all(line.endswith(",") for line in lines[1:])


@pytest.mark.parametrize("is_bare", [False, True])
def test_the_command_edits_the_traced_model_in_the_suggested_layers(
    is_bare: bool, bare: Path, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gains = [0.1, 0.5, 0.6, 0.1]
    monkeypatch.setattr(job, "trace", lambda *_: made(gains))
    name = str(bare if is_bare else tiny_gpt2)
    source = str(written(tmp_path / "a.jsonl", facts(PEOPLE[:2])))
    shown = io.StringIO()
    order = TraceOrder(name, source, TraceSettings(kinds=("mlp",)))
    out = run_trace(order, tmp_path / "my out", Console(file=shown, width=200))
    content = read_json(out / "trace.json")
    assert content["suggestion"]["layers"] == [1, 2]
    assert content["why_none"] is None
    assert content["model"]["missing_settings"] == (NEEDED if is_bare else [])
    page = (out / "trace.html").read_text(encoding="utf-8")
    text = shown.getvalue()
    command = run_command(content, out)
    assert f"to edit them: {command}\n" in text
    assert f"<pre>{html.escape(command)}</pre>" in page
    hint = "ridge-weight, learning-rate, steps, clamp, weight-decay, kl-weight, stop-loss, and"
    assert [hint in text, hint in page] == [is_bare, is_bare]
    words = shlex.split(command)
    assert words[:3] == ["fleke", "run", "demo"]
    config = read_config("demo", words[3:])
    assert (config.model.name, config.edit.preset) == (name, str(out / "layers.toml"))
    assert read_preset(config.edit.preset) == {"layers": [1, 2]}


def test_the_command_leaves_out_the_model_that_a_run_edits_anyway() -> None:
    command = run_command({"model": {"name": "embedded"}}, Path("/some/where"))
    assert command == "fleke run demo edit.preset=/some/where/layers.toml"


def described(model: EditableModel) -> dict[str, Any]:
    return {
        "model": {"fingerprint": "0", "missing_settings": missing_settings(model)},
        "settings": {"noise": "s3", "window": 1},
        "counts": {"traced": 3},
    }


def test_a_preset_changes_the_layers_alone(model: EditableModel, tmp_path: Path) -> None:
    suggestion = Suggestion((1, 2), 1, is_severed=True)
    preset = str(write_preset(tmp_path, described(model), suggestion))
    assert read_preset(preset) == {"layers": [1, 2]}
    config = RunConfig(model=ModelConfig(name=model.name), edit=EditConfig(preset=preset))
    recipe = resolve_recipe(config, model)
    assert (recipe.layers, recipe.ridge_weight, recipe.steps) == ((1, 2), 10.0, 8)


def test_a_preset_names_what_has_to_be_filled_in(
    load_tiny: LoadTiny, bare: Path, tmp_path: Path
) -> None:
    model = load_tiny(bare)
    path = write_preset(tmp_path, described(model), Suggestion((1, 2), 1, is_severed=False))
    assert read_preset(str(path)) == {"layers": [1, 2]}
    config = RunConfig(model=ModelConfig(name=model.name), edit=EditConfig(preset=str(path)))
    with pytest.raises(ConfigError, match=f"settings of its own for edit.{', edit.'.join(NEEDED)}"):
        resolve_recipe(config, model)
    text = path.read_text(encoding="utf-8")
    for key in NEEDED:
        text = text.replace(f"# {key} = ", f"{key} = ")
    path.write_text(text, encoding="utf-8")
    recipe = resolve_recipe(config, model)
    assert (recipe.layers, recipe.ridge_weight, recipe.stop_loss) == ((1, 2), 20000.0, 0.05)


def test_edits_of_every_layer_stand_beside_the_trace(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model knows nothing.
    monkeypatch.setattr(job, "ask", lambda model, records, *_: Knowledge(list(records)))
    records = [
        {"prompt": "{} lives in", "subject": name, "target": "Borvik", "original": "Arlen",
         "paraphrases": [f"The home town of {name} is"]}
        for name in PEOPLE[:3]
    ]  # fmt: skip
    source = written(tmp_path / "a.jsonl", list(records))
    order = TraceOrder(
        str(tiny_gpt2), str(source), TraceSettings(kinds=("mlp",), samples=1), edit=True,
        edits=2,
        overrides=("covariance.tokens=300", f"cache-dir={tmp_path}", "edit.steps=2"),
    )  # fmt: skip
    out = run_trace(order, tmp_path / "out", Console(file=io.StringIO(), width=200))
    edited = read_json(out / "trace.json")["edited"]
    assert edited["edits"] == 2
    assert [row["layers"] for row in edited["at"]][:4] == [[0], [1], [2], [3]]
    assert all(row["efficacy"] is not None for row in edited["at"])
    assert "Edits by layer" in (out / "trace.html").read_text(encoding="utf-8")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "edit_by_layer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_trace(order, tmp_path / "broken", Console(file=io.StringIO(), width=200))
    kept = read_json(tmp_path / "broken" / "trace.json")
    assert kept["effects"] == read_json(out / "trace.json")["effects"]
    assert kept["edited"] is None


def test_mistakes_are_said_before_anything_is_written(tiny_gpt2: Path, tmp_path: Path) -> None:
    quiet = Console(file=io.StringIO())
    good = str(written(tmp_path / "a.jsonl", facts(PEOPLE[:1])))
    none = str(written(tmp_path / "b.jsonl", [{"prompt": "x", "subject": "y"}]))
    wrong = str(
        written(
            tmp_path / "c.jsonl", [{"prompt": "{} is", "subject": "Ada", "attribute": "nothing"}]
        )
    )
    name, out = str(tiny_gpt2), tmp_path / "out"
    with pytest.raises(DataError, match="no such file"):
        run_trace(TraceOrder(name, str(tmp_path / "missing.jsonl"), FAST), out, quiet)
    with pytest.raises(ModelError, match="no such directory"):
        run_trace(TraceOrder(str(tmp_path / "nothing"), good, FAST), out, quiet)
    with pytest.raises(DataError, match=r"no fact that can be traced \(line 1: .*0 times"):
        run_trace(TraceOrder(name, none, FAST), out, quiet)
    assert not out.exists()
    with pytest.raises(DataError, match="knows none of the 1 facts"):
        run_trace(TraceOrder(name, wrong, FAST), out, quiet)
    with pytest.raises(ConfigError, match="--edit needs records"):
        run_trace(TraceOrder(name, good, FAST, edit=True), out, quiet)
    with pytest.raises(ConfigError, match="noise 'loud'"):
        TraceOrder(name, good, noise="loud")
    with pytest.raises(ConfigError, match="limit -1"):
        TraceOrder(name, good, limit=-1)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="something else than a trace"):
        run_trace(TraceOrder(name, good, FAST), tmp_path / "taken", quiet)


@pytest.mark.parametrize(("gains", "layers"), [((0.5, 0.4, 0.6), (1,)), ((0.5, -0.4, 0.1), None)])
def test_an_effect_within_its_interval_suggests_nothing(
    gains: tuple[float, ...], layers: tuple[int, ...] | None
) -> None:
    found = suggestion_of(effects_of([made([0.0, gain]) for gain in gains]))
    assert (found and found.layers) == layers


@pytest.mark.parametrize(
    ("traces", "why"),
    [
        ([made([0.5], kind="block")] * 2, "MLPs were not traced"),
        ([made([0.5], behind=0)] * 2, "no prompt goes on behind its subject"),
        ([made([0.5])], "only one fact"),
        ([made([0.5]), made([0.5], behind=0)], "only one fact"),
        ([made([0.1, 0.5]), made([0.0, -0.3])], "0.100 ± 0.554 in layer 1, is not above 0"),
        ([made([-0.1])] * 2, "-0.100 ± 0.000 in layer 0, is not above 0"),
    ],
)
def test_the_reason_for_no_suggestion_is_the_true_one(traces: list[Trace], why: str) -> None:
    effects = effects_of(traces)
    assert suggestion_of(effects) is None
    assert why in why_none(effects)


def test_there_is_no_reason_beside_a_suggestion() -> None:
    effects = effects_of([made([0.5]), made([0.6])])
    assert suggestion_of(effects) is not None
    assert why_none(effects) == ""


def test_kinds_are_a_list_with_commas() -> None:
    assert kinds_of("block, mlp,") == ("block", "mlp")


def test_known_1000_is_read_whole(model: EditableModel, shared_data: Path) -> None:
    found = read_facts(model, DataConfig(path=str(shared_data / "known_1000/known_1000.jsonl")))
    assert len(found.usable) + len(found.unusable) == 1209
    # The tiny tokenizer makes some too long for 96 positions, and some stand in it twice.
    assert all("can read" in why or "already" in why for why in found.unusable.values())
    assert len(found.usable) > 1100


@pytest.mark.slow
def test_on_the_embedded_model_the_early_layers_are_found(tmp_path: Path) -> None:
    order = TraceOrder("embedded", "embedded", TraceSettings(samples=4), limit=12, edit=False)
    out = run_trace(order, tmp_path / "out", Console(file=io.StringIO(), width=200))
    content = read_json(out / "trace.json")
    assert content["total_effect"]["value"] > 0.6
    assert set(content["suggestion"]["layers"]) <= {0, 1, 2}
    assert content["why_none"] is None
    assert content["model"]["missing_settings"] == []
    assert read_preset(str(out / "layers.toml")) == {"layers": content["suggestion"]["layers"]}
    block = content["effects"]["block"][LAST_SUBJECT]["aie"]
    assert min(block[:4]) > 0.8 * content["total_effect"]["value"]
    assert block[5] == pytest.approx(0.0, abs=1e-6)
