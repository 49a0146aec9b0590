from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fleke_flwr.editors.hyper.readings import answer_losses, answered, joined, read_tokens
from fleke_flwr.errors import RequestError, StatisticsError
from fleke_flwr.models.weights import substituted
from tests.conftest import LoadTiny
from tests.editors.cases import awkward_requests

MODELS = ("tiny_gpt2", "tiny_llama")


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_gradients_make_up_the_gradient_of_the_weight(
    name: str, load_tiny: LoadTiny, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    model = load_tiny(path)
    modules = [model.module_name(1), model.module_name(3)]
    texts = [answered(model, item.text, item.target) for item in awkward_requests()]
    found = read_tokens(model, modules, texts, "all", 4096)
    changes = {m: torch.zeros(model.shape_of(m), dtype=torch.float64) for m in modules}
    for change in changes.values():
        change.requires_grad_()
    with substituted(model.model, changes):
        sum(answer_losses(model, [text]).sum() for text in texts).backward()
    for module in modules:
        keys, gradients = joined(found, module)
        torch.testing.assert_close(gradients.T @ keys, changes[module].grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", ["answer", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_a_text_has_the_same_rows_in_any_batch(
    name: str, tokens: str, load_tiny: LoadTiny, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(name)
    model = load_tiny(path)
    modules = [model.module_name(layer) for layer in (0, 2)]
    texts = [answered(model, item.text, item.target) for item in awkward_requests()]
    # 40 tokens hold some of the texts: the last batch is ragged, and the longest text is alone.
    together, ragged = (read_tokens(model, modules, texts, tokens, size) for size in (4096, 40))
    alone = [read_tokens(model, modules, [text], tokens, 4096)[0] for text in texts]
    for other in (ragged, alone):
        for found, wanted in zip(other, together, strict=True):
            for module in modules:
                for left, right in zip(found[module], wanted[module], strict=True):
                    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_answer_tokens_are_those_that_predict_the_target(
    load_tiny: LoadTiny, tiny_gpt2: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    text = answered(model, "Mira Tolen lives in", "New Elster")
    rows = read_tokens(model, [model.module_name(1)], [text], "answer", 4096)[0]
    assert len(rows[model.module_name(1)][0]) == len(text.answer) > 1


def test_tokens_that_the_loss_does_not_reach_are_left_out(
    load_tiny: LoadTiny, tiny_gpt2: Path
) -> None:
    model = load_tiny(tiny_gpt2)
    text = answered(model, "Mira Tolen lives in", "New Elster")
    first, last = model.module_name(1), model.module_name(model.num_layers - 1)
    rows = read_tokens(model, [first, last], [text], "all", 4096)[0]
    assert len(rows[last][0]) == len(text.answer)
    assert len(rows[first][0]) == len(text.ids)


def test_the_model_is_as_before(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    # transformers leaves some hooks of its own.
    hooks = [len(module._forward_hooks) for module in model.model.modules()]
    text = answered(model, "Mira Tolen lives in", "Arlen")
    read_tokens(model, [model.module_name(1)], [text], "all", 4096)
    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())
    assert [len(module._forward_hooks) for module in model.model.modules()] == hooks


def test_too_long_a_text_is_refused(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    with pytest.raises(RequestError, match="shorten"):
        answered(load_tiny(tiny_gpt2), "river " * 90, "a very long answer about the cold river")


def test_a_model_that_overflows_is_refused(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2, "float16")
    texts = [answered(model, item.text, item.target) for item in awkward_requests()]
    large = torch.full(model.shape_of(model.module_name(3)), 6e4, dtype=torch.float16)
    with (
        substituted(model.model, {model.module_name(3): large}),
        pytest.raises(StatisticsError, match="the model overflows"),
    ):
        read_tokens(model, [model.module_name(1)], texts, "all", 4096)


def test_spaces_around_an_answer_do_not_count(load_tiny: LoadTiny, tiny_gpt2: Path) -> None:
    model = load_tiny(tiny_gpt2)
    plain = answered(model, "Mira Tolen lives in", "Borvik")
    assert answered(model, "Mira Tolen lives in", " Borvik ") == plain
