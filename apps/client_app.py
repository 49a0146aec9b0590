"""The Flower ClientApp: edit on this client's records, judge a merged model, describe the node."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fleke_flwr import __version__, wire
from fleke_flwr.apps.contribution import Contribution
from fleke_flwr.apps.judging import judge_personal
from fleke_flwr.apps.reedit import Reedit
from fleke_flwr.apps.session import Session, open_session
from fleke_flwr.data.slots import seen
from fleke_flwr.evaluation.quality import evaluate as measure

app = ClientApp()


@app.train("edit")
def edit(message: Message, context: Context) -> Message:
    """Contribute statistics or an update of this client's edits to one exchange."""
    order, state = wire.read_order(message.content)
    session = open_session(context, order.settings)
    contribution = Contribution(session, order, state, context.state)
    payload = contribution.payload()
    content = wire.write_payload(payload, order.encoding, order.dtype)
    content["metrics"] = _metrics(session, payload.num_edits, contribution.costs)
    return Message(content, reply_to=message)


@app.train("share")
def share(message: Message, context: Context) -> Message:
    """Edit this client's own model on its records of a slot and upload their memory vectors."""
    order, _ = wire.read_order(message.content)
    session = open_session(context, order.settings)
    work = Reedit(session, order, context.state)
    shared = work.share()
    content = wire.write_vectors(shared, session.model.fingerprint, order.spec.editor, order.dtype)
    content["metrics"] = _metrics(session, len(shared.vectors), work.costs)
    return Message(content, reply_to=message)


@app.train("reedit")
def reedit(message: Message, context: Context) -> Message:
    """Take over those of the others' edits that pass the re-edit condition."""
    order, _ = wire.read_order(message.content)
    session = open_session(context, order.settings)
    work = Reedit(session, order, context.state)
    work.take(wire.read_received(message.content))
    metrics = _metrics(session, len(work.personal.own), work.costs)
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.evaluate("personal")
def evaluate_personal(message: Message, context: Context) -> Message:
    """Judge this client's own model, keep it as a file, and say what it knows of whose records."""
    order, _ = wire.read_order(message.content)
    session = open_session(context, order.settings)
    started = time.perf_counter()
    judged = judge_personal(session, order, context.state)
    costs = {"seconds-evaluate": time.perf_counter() - started}
    records = {f"{wire.MEASUREMENTS}{name}": wire.write_sums(sums) for name, sums in judged.items()}
    own = judged[wire.OWN].get("efficacy_tokens", (0.0, 0.0, 0))[2]
    content = RecordDict({**records, "metrics": _metrics(session, own, costs)})
    return Message(content, reply_to=message)


@app.evaluate("edit")
def evaluate(message: Message, context: Context) -> Message:
    """Judge the merged model on this client's records edited so far."""
    order, state = wire.read_order(message.content)
    session = open_session(context, order.settings)
    cases = seen(session.cases(), order.rounds, order.round)
    started = time.perf_counter()
    with state.applied(session.model.model):
        quality = measure(session.model, cases, session.config.evaluation, session.config.seed)
    costs = {"seconds-evaluate": time.perf_counter() - started}
    content = RecordDict(
        {
            f"{wire.MEASUREMENTS}{wire.OWN}": wire.write_sums(quality.sums()),
            "metrics": _metrics(session, len(cases), costs),
        }
    )
    return Message(content, reply_to=message)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say which partition this node holds, of which model, and how many records."""
    session = open_session(context)
    content = {
        "partition": session.partition,
        "base": session.model.fingerprint,
        "edits": len(session.cases()),
        "version": __version__,
    }
    meta = ConfigRecord({"json": json.dumps(content)})
    return Message(RecordDict({"meta": meta}), reply_to=message)


def _metrics(session: Session, edits: int, costs: Mapping[str, int | float]) -> MetricRecord:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return MetricRecord(
        {
            "partition-id": session.partition,
            "num-examples": edits,
            "peak-rss-mb": float(peak),
            **costs,
        }
    )
