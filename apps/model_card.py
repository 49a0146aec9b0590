"""The README of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleke_flwr.apps.edited import run_name

_TITLES = {
    "score": "Score",
    "efficacy": "efficacy (ES)",
    "paraphrase": "paraphrases (PS)",
    "neighborhood": "neighbourhood (NS)",
    "same_subject": "other facts of the subjects",
}


def model_card(about: Mapping[str, Any], usage: str, library: str) -> str:
    """Write what an exported model is, where it comes from and how it is loaded.

    Parameters
    ----------
    about : Mapping[str, Any]
        Its provenance.
    usage : str
        Python lines that load it.
    library : str
        What a model hub calls the library that loads it.
    """
    base = about["base"]
    lines = ["---", f"library_name: {library}"]
    # A hub refuses names that are not its own; a path would also tell of the machine.
    if base["name"] != "embedded" and not Path(base["name"]).expanduser().exists():
        lines.append(f"base_model: {base['name']}")
    lines += ["tags:", "- knowledge-editing", "- federated-learning", "- fleke-flwr", "---", ""]
    lines += ["# Edited model", "", _origin(about), "", "```python", usage, "```", ""]
    lines += ["| | |", "|---|---|", *_facts(about), ""]
    if about["measured"]:
        lines += ["Measured by the run, on the edited records:", "", "| | % |", "|---|---|"]
        lines += [f"| {_TITLES[key]} | {value:.1f} |" for key, value in about["measured"].items()]
        lines.append("")
    lines += [
        "The base model's licence and limits hold here, too. Edits change what the model says of "
        "the edited facts and can change other answers. Who has the base model can compute the "
        "update, and the update tells anyone who can guess a fact whether it was among the edits.",
        "",
    ]
    return "\n".join(lines)


def _origin(about: Mapping[str, Any]) -> str:
    whose = "" if about["client"] is None else f", personal model of client {about['client']}"
    return (
        f"{about['edits']} facts were edited into a language model by {about['clients']} clients "
        f"with fleke-flwr {about['fleke-flwr']} (strategy `{about['strategy']}`, editor "
        f"`{about['editor']}`){whose}."
    )


def _facts(about: Mapping[str, Any]) -> list[str]:
    base = about["base"]
    facts = {
        "run": run_name(about),
        "base model": f"{base['name']}, fingerprint {base['fingerprint']} in {base['dtype']}",
        "edits": f"fingerprint {about['state']}, {about['rounds']} rounds",
        "edited weights": ", ".join(f"`{name}`" for name in about["modules"]),
    }
    return [f"| {title} | {value} |" for title, value in facts.items()]
