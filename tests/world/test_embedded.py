"""The shipped model is the one its card describes."""

from __future__ import annotations

from fleke_flwr.artifacts import read_json
from fleke_flwr.config import ModelConfig
from fleke_flwr.models import load_model
from fleke_flwr.world import embedded_directory
from fleke_flwr.world.checks import record_recall, world_recall
from fleke_flwr.world.facts import FactsConfig, build_facts
from fleke_flwr.world.plans import embedded_plan


def test_shipped_model_knows_the_world_it_is_shipped_with() -> None:
    model = load_model(ModelConfig(name="embedded"))
    world = build_facts(FactsConfig())
    report = world_recall(model.model, model.tokenizer, world, 100, seed=9)
    assert min(report.values()) >= 0.97
    assert min(record_recall(model.model, model.tokenizer, world, 10).values()) >= 0.95
    assert not model.model.transformer.wpe.weight.any()


def test_shipped_metrics_meet_the_stated_needs() -> None:
    report = read_json(embedded_directory() / "metrics.json")
    assert report["ready"]
    needs = embedded_plan(seed=0, minutes=1.0).checks.needs
    assert all(report["recall"][name] >= least for name, least in needs.items())
    assert report["targets"]["below"] >= 0.95
    assert min(report["swap"][layer]["follows"] for layer in ("0", "1", "2")) >= 0.95
