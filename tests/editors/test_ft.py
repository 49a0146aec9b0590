"""Fine-tuning equals the plain loop on the model's own parameters, and leaves the model alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from fleke_flwr.config import ModelConfig
from fleke_flwr.editors.ft import FineTuning, FineTuningW, power_decay
from fleke_flwr.errors import ConfigError, ModelError, StatisticsError
from fleke_flwr.models import EditableModel, load_model
from fleke_flwr.models.orientation import weight_of
from fleke_flwr.models.tokens import encode
from fleke_flwr.progress import Silent
from fleke_flwr.spec import EditSpec
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest
from tests.conftest import save_tiny, train_tokenizer
from tests.editors.cases import awkward_requests
from tests.editors.reference import spec_of

LoadTiny = Callable[..., EditableModel]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"], scope="module")
def model(request: pytest.FixtureRequest, load_tiny: LoadTiny) -> EditableModel:
    path: Path = request.getfixturevalue(request.param)
    return load_tiny(path)


def recipe(model: EditableModel, kind: type[FineTuning] = FineTuning, **changes: Any) -> EditSpec:
    options = {**kind.options, **changes.pop("options", {})}
    defaults = {"editor": "ft", "layers": (1,), "learning_rate": 2e-3, "steps": 6}
    return spec_of(model, **{**defaults, "stop_loss": 1e-2, "options": options, **changes})


def nll(model: nn.Module, prompt: list[int], whole: list[int], objective: str) -> Tensor:
    """Return the mean over the target's tokens, one text alone through the whole network."""
    labels = whole[len(prompt) :]
    if objective == "last":
        logs = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        return -torch.stack([logs[label] for label in labels]).mean()
    logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return -torch.stack(
        [logs[len(prompt) - 1 + index, label] for index, label in enumerate(labels)]
    ).mean()


def plain_loop(
    model: EditableModel, editor: FineTuning, requests: Sequence[EditRequest]
) -> tuple[dict[str, Tensor], int]:
    """Train the parameters of a copy; return how they changed, and the number of epochs."""
    spec, twin = editor.spec, copy.deepcopy(model.model)
    modules = {name: twin.get_submodule(name) for name in editor.modules(model)}
    weights = [weight_of(twin, name).requires_grad_() for name in modules]
    start = [weight.detach().clone() for weight in weights]
    decay = 0.0
    if editor.text("decay") == "power":
        decay = len(requests) ** -0.87028798 * math.exp(0.15589562)
    optimizer = torch.optim.Adam(weights, lr=spec.learning_rate, weight_decay=decay)
    texts = [
        (encode(model, request.text), encode(model, f"{request.text} {request.target}"))
        for request in requests
    ]
    size, bound = int(editor.number("batch")), editor.number("norm-constraint")
    epochs = 0
    for _ in range(spec.steps):
        losses = []
        epochs += 1
        for first in range(0, len(texts), size):
            some = texts[first : first + size]
            optimizer.zero_grad()
            found = torch.stack([nll(twin, *text, editor.text("objective")) for text in some])
            losses += [float(found.mean().detach())] * len(some)
            if found.mean() >= spec.stop_loss:
                found.mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if bound:
                with torch.no_grad():
                    for weight, before in zip(weights, start, strict=True):
                        weight.copy_(weight.clamp(before - bound, before + bound))
        if sum(losses) / len(losses) < spec.stop_loss:
            break
    changes = {}
    for (name, module), weight, before in zip(modules.items(), weights, start, strict=True):
        change = (weight - before).detach()
        changes[name] = change.T if type(module).__name__ == "Conv1D" else change
    return changes, epochs


def compare(
    model: EditableModel, editor: FineTuning, requests: Sequence[EditRequest]
) -> tuple[dict[str, Tensor], int]:
    found = editor.updates(model, requests, {})
    expected, epochs = plain_loop(model, editor, requests)
    assert list(found) == list(expected)
    for name, change in expected.items():
        dense = found[name].dense()
        assert dense.dtype == torch.float64
        assert float((dense - change).norm() / change.norm()) < 1e-8
    return expected, epochs


@pytest.mark.parametrize("objective", ["target", "last"])
@pytest.mark.parametrize("layers", [(0,), (1,), (3,), (1, 2)])
def test_equal_to_the_plain_loop(
    model: EditableModel, objective: str, layers: tuple[int, ...]
) -> None:
    spec = recipe(model, layers=layers, options={"objective": objective})
    compare(model, FineTuning(spec), awkward_requests())


@pytest.mark.parametrize("objective", ["target", "last"])
def test_equal_in_several_batches_cut_by_tokens(model: EditableModel, objective: str) -> None:
    spec = recipe(model, batch_tokens=40, options={"objective": objective, "batch": 4})
    compare(model, FineTuning(spec), awkward_requests())


@pytest.mark.parametrize("decay", ["power", "none"])
def test_whole_blocks_equal_the_plain_loop(model: EditableModel, decay: str) -> None:
    spec = recipe(model, FineTuningW, layers=(2,), options={"decay": decay})
    changes, _ = compare(model, FineTuningW(spec), awkward_requests())
    assert len(changes) > 3


def test_stops_when_all_are_likely(model: EditableModel) -> None:
    spec = recipe(model, learning_rate=0.01, steps=30, stop_loss=2.0, options={"batch": 2})
    _, epochs = compare(model, FineTuning(spec), awkward_requests()[:4])
    assert 1 < epochs < 30


def test_learns_the_targets_in_order(tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    model = load_tiny(tiny_gpt2)
    several = [awkward_requests()[index] for index in (1, 3)]
    texts = [
        (encode(model, request.text), encode(model, f"{request.text} {request.target}"))
        for request in several
    ]
    least = {}
    for objective in ("target", "last"):
        options = {"objective": objective}
        spec = recipe(model, learning_rate=0.02, steps=60, stop_loss=0.1, options=options)
        updates = FineTuning(spec).updates(model, several, {})
        with applied(model.model, updates), torch.no_grad():
            least[objective] = [
                float(nll(model.model, prompt, whole, "target")) for prompt, whole in texts
            ]
    assert max(least["target"]) < 0.6
    # A bag gives k tokens 1/k each at best, and says nothing about what follows the first one.
    assert min(least["last"]) > math.log(2)


def test_norm_constraint_bounds_every_weight(model: EditableModel) -> None:
    spec = recipe(model, options={"norm-constraint": 3e-3})
    changes, _ = compare(model, FineTuning(spec), awkward_requests())
    free, _ = plain_loop(model, FineTuning(recipe(model)), awkward_requests())
    for name, change in changes.items():
        assert float(change.abs().max()) <= 3e-3 + 1e-15
        assert float(free[name].abs().max()) > 3e-3


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 1.1687038), (10, 0.15754935), (1000, 0.0028631274)]
)
def test_power_law(count: int, expected: float) -> None:
    assert power_decay(count) == pytest.approx(expected, rel=1e-6)


def test_decay_shrinks_the_weights(model: EditableModel) -> None:
    norms = []
    for decay in ("none", "power"):
        editor = FineTuningW(recipe(model, FineTuningW, options={"decay": decay}))
        updates = editor.updates(model, awkward_requests(), {})
        edited = [model.weight_of(name) + update.dense() for name, update in updates.items()]
        norms.append(sum(float(weight.norm() ** 2) for weight in edited))
    assert norms[1] < 0.99 * norms[0]


@pytest.mark.parametrize("kind", [FineTuning, FineTuningW])
def test_no_requests(model: EditableModel, kind: type[FineTuning]) -> None:
    editor = kind(recipe(model, kind))
    updates = editor.updates(model, [], {})
    assert tuple(updates) == editor.modules(model)
    for name, update in updates.items():
        assert update.shape == model.shape_of(name)
        assert not update.dense().any()


def test_is_deterministic_and_reads_the_model_as_it_stands(model: EditableModel) -> None:
    editor = FineTuning(recipe(model))
    first, again = (editor.updates(model, awkward_requests(), {}) for _ in range(2))
    with applied(model.model, first):
        second = editor.updates(model, awkward_requests(), {})
    for name, update in first.items():
        assert torch.equal(update.dense(), again[name].dense())
        assert not torch.allclose(update.dense(), second[name].dense())


class Interrupted(Silent):
    """Breaks the run off after the first batch."""

    def advance(self, phase: str, amount: int = 1) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [FineTuning, FineTuningW])
def test_the_model_comes_back_bit_for_bit(model: EditableModel, kind: type[FineTuning]) -> None:
    before = {name: (value, value.clone()) for name, value in model.model.named_parameters()}
    editor = kind(recipe(model, kind))
    editor.updates(model, awkward_requests(), {})
    with pytest.raises(KeyboardInterrupt):
        editor.updates(model, awkward_requests(), {}, Interrupted())
    after = dict(model.model.named_parameters())
    for name, (value, copied) in before.items():
        assert after[name] is value
        assert torch.equal(value, copied)
        assert value.grad is None
        assert not value.requires_grad


def test_progress_ends_at_its_total(model: EditableModel) -> None:
    seen: list[int] = []

    class Counting(Silent):
        def start(self, phase: str, total: int) -> None:
            seen.append(-total)

        def advance(self, phase: str, amount: int = 1) -> None:
            seen.append(amount)

    spec = recipe(model, stop_loss=1e6)
    FineTuning(spec).updates(model, awkward_requests(), {}, Counting())
    assert seen[0] == -6 * 6
    assert sum(seen) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_steps_of_narrow_weights_add_up(
    tiny_gpt2: Path, load_tiny: LoadTiny, dtype: str
) -> None:
    narrow = load_tiny(tiny_gpt2, dtype=dtype)
    name = narrow.module_name(1)
    spec = recipe(narrow, learning_rate=1e-5, steps=8, stop_loss=0.0)
    change = FineTuning(spec).updates(narrow, awkward_requests(), {})[name].dense()
    assert float(change.abs().max()) == pytest.approx(8e-5, rel=0.1)


def test_whole_blocks_are_exactly_the_blocks(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(add_bos=False)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=32, n_embd=4, n_layer=23, n_head=1, n_inner=4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    deep = load_model(
        ModelConfig(name=str(save_tiny(tmp_path, GPT2LMHeadModel(config), tokenizer)))
    )
    editor = FineTuningW(recipe(deep, FineTuningW, layers=(2, 21)))
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert editor.modules(deep) == tuple(
        f"transformer.h.{layer}.{part}" for layer in (2, 21) for part in parts
    )
    with pytest.raises(ModelError, match="has no layer 23"):
        FineTuningW(recipe(deep, FineTuningW, layers=(23,))).check(deep)


def test_no_covariance_is_asked_for(model: EditableModel) -> None:
    def moments() -> NoReturn:
        raise AssertionError

    assert FineTuning(recipe(model)).priors(model, moments) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"objective": "bag"}}, "objective"),
        ({"options": {"decay": "linear"}}, "decay"),
        ({"options": {"batch": 0}}, "batch = 0"),
        ({"options": {"norm-constraint": -1.0}}, "norm-constraint = -1"),
        ({"learning_rate": 0.5}, "moves weights"),
        ({"learning_rate": 0.0}, "moves weights"),
    ],
)
def test_what_it_cannot_do_is_refused(
    model: EditableModel, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        FineTuning(recipe(model, **changes)).check(model)


def test_not_a_number_is_an_error(tiny_gpt2: Path, load_tiny: LoadTiny) -> None:
    narrow = load_tiny(tiny_gpt2, dtype="float16")
    weight = weight_of(narrow.model, narrow.module_name(1))
    saved = weight.clone()
    try:
        weight.fill_(6e4)
        with pytest.raises(StatisticsError, match="fine-tuning"):
            FineTuning(recipe(narrow)).updates(narrow, awkward_requests(), {})
    finally:
        weight.copy_(saved)
