"""Load what was written in a process that never imports this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fleke_flwr.models import EditableModel

TEXT = "Mira Tolen lives in Arlen. The mother tongue of Pavel Orrin is spoken in New"
_LOAD = """
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
orders, text, target = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
found = {}
for name, order in orders.items():
    dtype = {"dtype": getattr(torch, order["dtype"])} if "dtype" in order else {}
    model = AutoModelForCausalLM.from_pretrained(order["model"], **dtype)
    tokenizer = AutoTokenizer.from_pretrained(order["model"])
    if "adapter" in order:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, order["adapter"])
    if "code" in order:
        variables = {"base": order["model"], "edits": order["edits"]}
        exec(order["code"], variables)
        model = variables["model"]
    with torch.no_grad():
        found[name] = model(tokenizer(text, return_tensors="pt").input_ids).logits
loaded = [name for name in sys.modules if name.partition(".")[0] == "fleke_flwr"]
assert not loaded, loaded
save_file(found, target)
"""


def logits_elsewhere(orders: dict[str, dict[str, Any]], directory: Path) -> dict[str, Tensor]:
    """Return each order's logits of ``TEXT``, computed in one other process.

    An order names a ``model`` directory and may name a ``dtype``, an ``adapter``, or ``code`` that
    makes ``model`` of ``base`` and ``edits``.
    """
    target = directory / "logits.safetensors"
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::UserWarning",
            "-c",
            _LOAD,
            json.dumps(orders, default=str),
            TEXT,
            target,
        ],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert result.returncode == 0, result.stderr
    return load_file(target)


def logits_here(model: EditableModel) -> Tensor:
    """Return the logits of ``TEXT`` of a model in this process."""
    ids = model.tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        logits: Tensor = model.model(ids).logits
    return logits
