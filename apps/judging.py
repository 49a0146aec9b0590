"""What models know: the shared one of a client's records, a client's own one of everybody's."""

from __future__ import annotations

from dataclasses import replace

from flwr.app import RecordDict

from fleke_flwr import wire
from fleke_flwr.apps.claims import standing_cases
from fleke_flwr.apps.drift import DRIFT, drift_sums
from fleke_flwr.apps.failed_edits import FailedEdits, folder_of
from fleke_flwr.apps.ledger import Ledger
from fleke_flwr.apps.personal import PersonalModel, load_personal
from fleke_flwr.apps.session import Session
from fleke_flwr.editors.base import EDITORS
from fleke_flwr.editors.direct import located
from fleke_flwr.evaluation.quality import Quality, evaluate
from fleke_flwr.state import EditState
from fleke_flwr.types import EvalCase
from fleke_flwr.wire import Sums, TrainOrder


def judge_shared(
    session: Session, order: TrainOrder, state: EditState, memory: RecordDict
) -> tuple[dict[str, Sums], int]:
    """Measure the shared model on this client's records, without those that it has taken back.

    Which of its edits have not taken is written where this node keeps files.

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
    failed = FailedEdits(session, order) if state.updates else None
    with state.applied(session.model.model):
        quality = evaluate(session.model, cases, session.config.evaluation, session.config.seed)
        if failed:
            failed.read(cases, quality)
    if failed:
        failed.write()
    groups: dict[str, Sums] = {wire.OWN: quality.sums()}
    if order.rounds > 1:
        place = {case.request: index for index, case in enumerate(cases)}
        groups[wire.FIRST] = quality.sums([place[case.request] for case in first])
    return groups, len(cases)


def judge_personal(session: Session, order: TrainOrder, memory: RecordDict) -> dict[str, Sums]:
    """Measure a personal model, and write its updates and failed edits where this node keeps files.

    A node that brought its own records measures on these alone. In a simulation everybody's
    records are at hand, so what the model took over is measured, too: nothing a client of a
    deployment could do, and the only way to say what re-editing is worth.

    Returns
    -------
    dict[str, Sums]
        By group of records: ``own``, and in a simulation ``all`` and ``received``. After the last
        round also ``drift``, how far this model has moved from the base model.
    """
    model = session.model
    editor = located(EDITORS.get(order.spec.editor)(order.spec))
    personal = load_personal(memory, order, model, editor)
    state = personal.state(model.fingerprint)
    directory = session.results
    if directory is not None:
        folder = directory / "personal" / folder_of(order.variant)
        state.save(folder / f"client-{session.partition}.safetensors")
    own = session.seen(order.rounds, order.round)
    everybody = [own] if session.own_data else _everybody(session, order)
    cases = list({case.request: case for part in (own, *everybody) for case in part}.values())
    number = {case.request: index for index, case in enumerate(cases)}
    failed = FailedEdits(session, order) if state.updates else None
    with state.applied(model.model):
        quality = evaluate(model, cases, session.config.evaluation, session.config.seed)
        if failed:
            failed.read(own, Quality([quality.records[number[case.request]] for case in own]))
    if failed:
        failed.write()
    groups = {wire.OWN: own}
    if not session.own_data:
        groups[wire.ALL] = cases
        groups[wire.RECEIVED] = _taken(personal, everybody)
    judged: dict[str, Sums] = {
        name: quality.sums({number[case.request]: None for case in group})
        for name, group in groups.items()
    }
    if state.updates and order.round == order.rounds:
        judged[DRIFT] = drift_sums(model, state, session.config)
    return judged


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
