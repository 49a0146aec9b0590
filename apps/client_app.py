"""The Flower ClientApp: edit on this client's records, judge a merged model, describe the node."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fleke_flwr import __version__, wire
from fleke_flwr.apps.claims import Claimant
from fleke_flwr.apps.contribution import Contribution
from fleke_flwr.apps.judging import judge_personal, judge_shared
from fleke_flwr.apps.node_memory import keep_memory, recall_memory
from fleke_flwr.apps.reedit import Reedit
from fleke_flwr.apps.session import Session, open_session
from fleke_flwr.state import EditState
from fleke_flwr.wire import TrainOrder

app = ClientApp()


@app.train("edit")
def edit(message: Message, context: Context) -> Message:
    """Contribute statistics or an update of this client's edits to one exchange."""
    session, order, state = _opened(message, context)
    contribution = Contribution(session, order, state, context.state)
    payload = contribution.payload()
    keep_memory(session, context)
    content = wire.write_payload(payload, order.encoding, order.dtype, order.place)
    content["metrics"] = _metrics(session, payload.num_edits, contribution.costs)
    return Message(content, reply_to=message)


@app.train("share")
def share(message: Message, context: Context) -> Message:
    """Edit this client's own model on its records of a slot and upload their memory vectors."""
    session, order, _ = _opened(message, context)
    work = Reedit(session, order, context.state)
    shared = work.share()
    keep_memory(session, context)
    content = wire.write_vectors(shared, session.model.fingerprint, order.spec.editor, order.dtype)
    content["metrics"] = _metrics(session, len(shared.vectors), work.costs)
    return Message(content, reply_to=message)


@app.train("reedit")
def reedit(message: Message, context: Context) -> Message:
    """Take over those of the others' edits that pass the re-edit condition."""
    session, order, _ = _opened(message, context)
    work = Reedit(session, order, context.state)
    work.take(wire.read_received(message.content))
    keep_memory(session, context)
    metrics = _metrics(session, len(work.personal.own), work.costs)
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.evaluate("personal")
def evaluate_personal(message: Message, context: Context) -> Message:
    """Judge this client's own model, keep it as a file, and say what it knows of whose records."""
    session, order, _ = _opened(message, context)
    started = time.perf_counter()
    judged = judge_personal(session, order, context.state)
    costs = {"seconds-evaluate": time.perf_counter() - started}
    own = judged[wire.OWN].get("efficacy_tokens", (0.0, 0.0, 0))[2]
    content = wire.write_groups(judged)
    content["metrics"] = _metrics(session, own, costs)
    return Message(content, reply_to=message)


@app.evaluate("edit")
def evaluate(message: Message, context: Context) -> Message:
    """Judge the merged model on this client's records edited so far, or on those of round 1."""
    session, order, state = _opened(message, context)
    started = time.perf_counter()
    judged, count = judge_shared(session, order, state, context.state)
    costs = {"seconds-evaluate": time.perf_counter() - started}
    content = wire.write_groups(judged)
    content["metrics"] = _metrics(session, count, costs)
    return Message(content, reply_to=message)


@app.query("losers")
def losers(message: Message, context: Context) -> Message:
    """Name, by tag, the edits that the shared model does not give as its answer."""
    claimant, state = _claimant(message, context)
    return Message(
        RecordDict({"conflict": wire.write_tags(claimant.losers(state))}), reply_to=message
    )


@app.query("claims")
def claims(message: Message, context: Context) -> Message:
    """Sign in for edits whose question is disputed."""
    claimant, _ = _claimant(message, context)
    found = claimant.claims(set(wire.read_tags(message.content)))
    return Message(RecordDict({"conflict": wire.write_claims(found)}), reply_to=message)


@app.train("verdict")
def verdict(message: Message, context: Context) -> Message:
    """Note which edits are taken back and which are strengthened from now on."""
    claimant, _ = _claimant(message, context)
    claimant.accept(wire.read_verdict(message.content))
    keep_memory(claimant.session, context)
    return Message(RecordDict({"metrics": _metrics(claimant.session, 0, {})}), reply_to=message)


@app.evaluate("pairs")
def evaluate_pairs(message: Message, context: Context) -> Message:
    """Judge winning edits against their rivals, and the records that nobody disputes."""
    claimant, state = _claimant(message, context)
    started = time.perf_counter()
    judged = claimant.judged(state, set(wire.read_tags(message.content)))
    costs = {"seconds-evaluate": time.perf_counter() - started}
    content = wire.write_groups(judged)
    content["metrics"] = _metrics(claimant.session, 0, costs)
    return Message(content, reply_to=message)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say which partition this node holds, of which model, and how many records."""
    session = open_session(context)
    content = {
        "partition": session.partition,
        "base": session.model.fingerprint,
        "edits": sum(map(len, session.dealt(session.config.rounds))),
        "version": __version__,
        "own_data": session.own_data,
    }
    meta = ConfigRecord({"json": json.dumps(content)})
    return Message(RecordDict({"meta": meta}), reply_to=message)


def _claimant(message: Message, context: Context) -> tuple[Claimant, EditState]:
    session, order, state = _opened(message, context)
    return Claimant(session, order, context.state), state


def _opened(message: Message, context: Context) -> tuple[Session, TrainOrder, EditState]:
    """Read an order, and be the client that it is meant for, with what it remembers."""
    order, state = wire.read_order(message.content)
    session = open_session(context, order.settings)
    judges_itself = bool(session.config.conflict.policy) or session.config.overlap.threshold >= 0
    recall_memory(session, context, needed=judges_itself and order.round > 1)
    return session, order, state


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
