"""What a client remembers between messages, kept as a file where the node keeps files.

Flower holds a node's state in memory and for one run: it is gone when the SuperNode is started
anew, and a resumed run is another run to Flower.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, MetricRecord, RecordDict

from fleke_flwr import wire
from fleke_flwr.apps.session import Session
from fleke_flwr.artifacts import read_tensors, write_tensors
from fleke_flwr.errors import RunError

# Records that are good for one round only, and are made again with it.
TARGETS, TARGETS_KEY = "targets", "targets-key"
_SCHEMA = 1


def recall_memory(session: Session, context: Context, *, needed: bool = False) -> None:
    """Put what the node has kept back into an empty Flower state.

    Parameters
    ----------
    session : Session
        The client.
    context : Context
        The node's; its state is filled.
    needed : bool
        Whether a resumed run would go wrong without it.

    Raises
    ------
    RunError
        If it is needed and there is nothing.
    """
    if _lasting(context.state):
        return
    path = _path(session)
    if path is not None and path.is_file():
        tensors, about = read_tensors(path)
        if _is_ours(about, session, context):
            context.state.update(_unpacked(tensors, about))
            return
    if needed and session.config.resume:
        raise RunError(
            "this node no longer has what it knew before the run broke off, because it keeps no "
            "files: give it a results-path in --node-config before the next run"
        )


def keep_memory(session: Session, context: Context) -> None:
    """Write what the node remembers to its file, if it keeps files and remembers anything."""
    path, lasting = _path(session), _lasting(context.state)
    if path is None or not lasting:
        return
    tensors: dict[str, torch.Tensor] = {}
    records: dict[str, Any] = {}
    for name, record in lasting.items():
        if isinstance(record, ConfigRecord | MetricRecord):
            records[name] = [type(record).__name__, dict(record)]
            continue
        found = wire.unpack_tensors(record)
        records[name] = ["ArrayRecord", list(found)]
        tensors |= {f"{name}/{key}": tensor for key, tensor in found.items()}
    about = {
        "schema": _SCHEMA,
        "run": session.config.output_dir,
        "flower": str(context.run_id),
        "records": json.dumps(records),
    }
    write_tensors(path, tensors, about)


def _path(session: Session) -> Path | None:
    if session.results is None:
        return None
    return session.results / "memory" / f"client-{session.partition}.safetensors"


def _lasting(state: RecordDict) -> dict[str, Any]:
    return {name: record for name, record in state.items() if name not in (TARGETS, TARGETS_KEY)}


def _is_ours(about: dict[str, Any], session: Session, context: Context) -> bool:
    """Tell whether a file belongs to this Flower run, or to the one that is resumed."""
    if about.get("schema") != _SCHEMA:
        return False
    same_flower_run = about["flower"] == str(context.run_id)
    resumed = session.config.resume and about["run"] == session.config.output_dir
    return same_flower_run or resumed


def _unpacked(tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> RecordDict:
    found = RecordDict()
    for name, (kind, content) in json.loads(about["records"]).items():
        if kind == "ArrayRecord":
            found[name] = wire.pack_tensors({key: tensors[f"{name}/{key}"] for key in content})
        elif kind == "ConfigRecord":
            found[name] = ConfigRecord(content)
        else:
            found[name] = MetricRecord(content)
    return found
