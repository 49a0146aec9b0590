"""Merging strategies for Flower, found by name.

Another package adds its own through the entry-point group ``fleke_flwr.strategies``.
"""

from __future__ import annotations

from fleke_flwr.registry import Registry
from fleke_flwr.strategies.averaging import EditAvg, SimpleAverage, TaskArithmetic, WeightedSum
from fleke_flwr.strategies.base import EditStrategy
from fleke_flwr.strategies.collabedit import CollabEdit
from fleke_flwr.strategies.fededit import FedEdit, FedEditNoCondition
from fleke_flwr.strategies.federated import FederatedStrategy
from fleke_flwr.strategies.global_edit import GlobalEdit
from fleke_flwr.strategies.nodes import Node
from fleke_flwr.strategies.options import option
from fleke_flwr.strategies.plan import Plan
from fleke_flwr.strategies.rounds import RoundRecord
from fleke_flwr.strategies.ties import Ties

STRATEGIES: Registry[FederatedStrategy] = Registry(
    "strategy",
    FederatedStrategy,  # type: ignore[type-abstract]  # only ever compared with
    "fleke_flwr.strategies",
)
STRATEGIES.add("collabedit", "fleke_flwr.strategies.collabedit:CollabEdit")
STRATEGIES.add("global", "fleke_flwr.strategies.global_edit:GlobalEdit")
STRATEGIES.add("simple_average", "fleke_flwr.strategies.averaging:SimpleAverage")
STRATEGIES.add("edit_avg", "fleke_flwr.strategies.averaging:EditAvg")
STRATEGIES.add("task_arithmetic", "fleke_flwr.strategies.averaging:TaskArithmetic")
STRATEGIES.add("fededit", "fleke_flwr.strategies.fededit:FedEdit")
STRATEGIES.add("fededit_no_condition", "fleke_flwr.strategies.fededit:FedEditNoCondition")
STRATEGIES.add("ties", "fleke_flwr.strategies.ties:Ties")

__all__ = [
    "STRATEGIES",
    "CollabEdit",
    "EditAvg",
    "EditStrategy",
    "FedEdit",
    "FedEditNoCondition",
    "FederatedStrategy",
    "GlobalEdit",
    "Node",
    "Plan",
    "RoundRecord",
    "SimpleAverage",
    "TaskArithmetic",
    "Ties",
    "WeightedSum",
    "option",
]
