"""What models know: the shared one of a client's records, a client's own one of everybody's."""

from __future__ import annotations

import re
from dataclasses import replace

from flwr.app import RecordDict

from fleke_flwr import wire
from fleke_flwr.apps.claims import standing_cases
from fleke_flwr.apps.ledger import Ledger
from fleke_flwr.apps.personal import PersonalModel, load_personal
from fleke_flwr.apps.session import Session
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.evaluation.quality import evaluate
from fleke_flwr.state import EditState
from fleke_flwr.types import EvalCase
from fleke_flwr.wire import Sums, TrainOrder


def judge_shared(
    session: Session, order: TrainOrder, state: EditState, memory: RecordDict
) -> tuple[dict[str, Sums], int]:
    """Measure the shared model on this client's records, without those that it has taken back.

    Returns
    -------
    dict[str, Sums]
        By group of records: ``own``, and with several rounds ``first``, the records of round 1.
    int
        How many records were measured.
    """
    ledger = Ledger.load(memory, order.variant)
    cases = standing_cases(session, order, ledger)
    first = standing_cases(session, replace(order, round=1), ledger)
    if session.config.evaluation.records == "first":
        cases = first
    with state.applied(session.model.model):
        quality = evaluate(session.model, cases, session.config.evaluation, session.config.seed)
    groups: dict[str, Sums] = {wire.OWN: quality.sums()}
    if order.rounds > 1:
        place = {case.request: index for index, case in enumerate(cases)}
        groups[wire.FIRST] = quality.sums([place[case.request] for case in first])
    return groups, len(cases)


def judge_personal(session: Session, order: TrainOrder, memory: RecordDict) -> dict[str, Sums]:
    """Measure a personal model, and write its updates where this node keeps results.

    A node that brought its own records measures on these alone. In a simulation everybody's
    records are at hand, so what the model took over is measured, too: nothing a client of a
    deployment could do, and the only way to say what re-editing is worth.

    Returns
    -------
    dict[str, Sums]
        By group of records: ``own``, and in a simulation ``all`` and ``received``.
    """
    model = session.model
    editor = EDITORS.get(order.spec.editor)(order.spec)
    personal = load_personal(memory, order, model, editor)
    state = personal.state(model.fingerprint)
    directory = session.results
    if directory is not None:
        name = re.sub(r"[^\w.=-]+", "_", order.variant)
        state.save(directory / "personal" / name / f"client-{session.partition}.safetensors")
    own = session.seen(order.rounds, order.round)
    everybody = [own] if session.own_data else _everybody(session, order)
    cases = list({case.request: case for part in (own, *everybody) for case in part}.values())
    with state.applied(model.model):
        quality = evaluate(model, cases, session.config.evaluation, session.config.seed)
    number = {case.request: index for index, case in enumerate(cases)}
    groups = {wire.OWN: own}
    if not session.own_data:
        groups[wire.ALL] = cases
        groups[wire.RECEIVED] = _taken(personal, everybody)
    return {
        name: quality.sums({number[case.request]: None for case in group})
        for name, group in groups.items()
    }


def _everybody(session: Session, order: TrainOrder) -> list[list[EvalCase]]:
    return [
        [case for slot in part[: order.round] for case in slot]
        for part in session.everybody(order.rounds)
    ]


def _taken(personal: PersonalModel, everybody: list[list[EvalCase]]) -> list[EvalCase]:
    """Return the records behind the edits that were taken over."""
    received = personal.received
    return [
        everybody[sender][place]
        for sender, place in zip(received.sender.tolist(), received.place.tolist(), strict=True)
    ]
