"""The training pass equals the ordinary model, and its masks close the stated routes only."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel

from fleke_flwr.world.examples import OUTSIDE
from fleke_flwr.world.network import draw_paths, logits_at, new_model
from fleke_flwr.world.recipe import Routes
from tests.world.conftest import SHAPE

# Row: text, subject 0 (two tokens), text, subject 1 (one token), text.
SPANS = torch.tensor([[OUTSIDE, 0, 0, OUTSIDE, 1, OUTSIDE]])


def visible(routes: Routes) -> tuple[list[list[int]], list[list[int]]]:
    masks = draw_paths(SPANS, routes, torch.Generator().manual_seed(0))
    return tuple(  # type: ignore[return-value]  # two masks, two lists
        [[int(value == 0) for value in row] for row in mask[0, 0]] for mask in masks[:2]
    )


def test_open_routes_are_causal_attention() -> None:
    causal = [[int(j <= i) for j in range(6)] for i in range(6)]
    assert visible(Routes(3, routed=0.0, isolated=0.0)) == (causal, causal)


def test_routed_rows_close_the_way_out_of_a_subject() -> None:
    gather, later = visible(Routes(3, routed=1.0, isolated=0.0))
    assert gather == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 0, 0, 1, 0, 1],
    ]
    assert later == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 0, 1, 1, 1, 0],
        [1, 0, 1, 1, 1, 1],
    ]


def test_isolated_rows_close_the_way_into_a_subject() -> None:
    gather, later = visible(Routes(3, routed=0.0, isolated=1.0))
    assert gather[1] == [0, 1, 0, 0, 0, 0]
    assert gather[2] == [0, 1, 1, 0, 0, 0]
    assert gather[4] == [0, 0, 0, 0, 1, 0]
    assert gather[5] == [1, 1, 1, 1, 1, 1]
    assert later[4] == [1, 1, 1, 1, 1, 0]


def test_decoys_take_their_states_from_inner_tokens_of_subjects() -> None:
    spans = SPANS.expand(50, -1)
    paths = draw_paths(spans, Routes(3, 0.0, 0.0, decoyed=1.0), torch.Generator().manual_seed(0))
    inner = torch.arange(50) * 6 + 1  # the only token of a name that is not its last
    others = torch.ones(300, dtype=torch.bool)
    others[inner] = False
    assert torch.equal(paths.source[others], torch.arange(300)[others])
    assert torch.equal(paths.source[inner].sort().values, inner)
    assert (paths.source[inner] != inner).double().mean() > 0.8
    assert paths.gather[0, 0, 5, 1] != 0
    assert paths.later[0, 0, 5, 1] == 0


def test_training_pass_without_closed_routes_is_the_model(small_model: GPT2LMHeadModel) -> None:
    tokens = torch.randint(0, SHAPE.vocabulary, (3, 10), generator=torch.Generator().manual_seed(1))
    spans = torch.full((3, 10), OUTSIDE)
    masks = draw_paths(spans, Routes(), torch.Generator())
    wanted = torch.tensor([0, 4, 13, 29])
    with torch.no_grad():
        found = logits_at(small_model, tokens, masks, 3, wanted)
        plain = small_model(tokens).logits.reshape(30, -1)[wanted]
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


def test_a_closed_route_carries_nothing(small_model: GPT2LMHeadModel) -> None:
    spans = torch.tensor([[OUTSIDE, 0, 0, OUTSIDE, OUTSIDE]])
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    other = torch.tensor([[5, 60, 7, 8, 9]])  # another first token of the name
    masks = draw_paths(spans, Routes(4, routed=1.0, isolated=0.0), torch.Generator())
    end = torch.tensor([4])
    with torch.no_grad():
        same = [logits_at(small_model, ids, masks, 4, end) for ids in (tokens, other)]
        through = [logits_at(small_model, ids, masks, 3, end) for ids in (tokens, other)]
    assert torch.equal(same[0], same[1])
    # Later blocks may read the last token of the name, which has gathered the first one.
    assert not torch.equal(through[0], through[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_initial_weights_come_from_the_seed_and_leave_the_global_one_alone(seed: int) -> None:
    state = torch.get_rng_state()
    first, second = new_model(SHAPE, seed), new_model(SHAPE, seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, new_model(SHAPE, seed + 1).lm_head.weight)
