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
            "measurements": wire.write_sums(quality.sums()),
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
