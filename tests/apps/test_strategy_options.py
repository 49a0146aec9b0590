"""Parameters of strategies, out of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fleke_flwr.apps.strategy_options import check_options, strategy_options
from fleke_flwr.config import RunConfig, load_config
from fleke_flwr.errors import ConfigError
from fleke_flwr.state import EditState
from fleke_flwr.strategies import CollabEdit, EditStrategy, FedEdit, Node, Plan, TaskArithmetic
from fleke_flwr.types import EditPayload, LayerUpdate


class Custom(EditStrategy):
    def __init__(
        self,
        plan: Plan,
        nodes: Sequence[Node] | None = None,
        scale: float = -1.0,
        trim_share: float = 0.1,
        careful: bool = False,
        passes: int = 2,
    ) -> None:
        super().__init__(plan, nodes)

    def merge(self, payloads: Sequence[EditPayload], state: EditState) -> Mapping[str, LayerUpdate]:
        return {}


def configured(text: str, **settings: float) -> RunConfig:
    flat = {f"merge.{key}": value for key, value in settings.items()}
    return RunConfig.from_flat({"merge.options": text, **flat})


def test_a_strategy_of_ones_own_takes_its_own_parameters_in_their_types() -> None:
    config = configured("trim-share=0.25, careful=true, passes=4", scale=0.5)
    found = strategy_options(Custom, config)
    assert found == {"scale": 0.5, "trim_share": 0.25, "careful": True, "passes": 4}


def test_what_a_strategy_does_not_take_it_is_not_given() -> None:
    config = configured("trim_share=0.25")
    assert strategy_options(CollabEdit, config) == {}
    assert list(strategy_options(TaskArithmetic, config)) == ["scale"]
    assert list(strategy_options(FedEdit, config)) == ["fededit"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("trim_shar=0.2", "trim_share"),
        ("trim_share", "write name=value"),
        ("passes=many", "a number is needed"),
        ("careful=yes", "write true or false"),
        ("plan=1", "unknown option 'plan'"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_options({"custom": Custom, "ties": CollabEdit}, configured(text))


def test_the_command_line_takes_an_equals_sign_in_a_value(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\n', encoding="utf-8")
    config = load_config(path, ["merge.options=limit=2,share=0.3"])
    assert config.merge.options == "limit=2,share=0.3"
