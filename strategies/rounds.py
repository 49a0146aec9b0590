"""What happened in a round, and how a reply is read into it."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Message

from fleke_flwr import wire
from fleke_flwr.errors import PayloadError
from fleke_flwr.strategies.nodes import reason
from fleke_flwr.wire import Sums


@dataclass
class RoundRecord:
    """What happened in one round.

    Parameters
    ----------
    round : int
        Counted from 1; 0 holds the measurement before any edit.
    edits : int
        Edits merged in this round.
    up_bytes, down_bytes : int
        Numbers sent by and to all clients, headers not counted.
    seconds : dict[str, float]
        By phase, summed over clients; ``aggregate`` is the server's.
    optimized, reused : int
        Target vectors that were optimised, and that were known already.
    left_out : dict[int, str]
        Clients left out, with the reason.
    merged : list[int]
        Clients whose edits are in the shared model since this round.
    clients : dict[int, Sums]
        Measurements by client on its own records, as sums that add up.
    groups : dict[str, dict[int, Sums]]
        The same on other groups of records, where clients have models of their own.
    counts : dict[str, float]
        What clients counted, summed: edits received, selected, known already, and so on.
    conflicts : dict[str, int]
        How many edits lost, were disputed, withdrawn and strengthened.
    judged : dict[str, dict[str, Sums]]
        Settled pairs and undisputed records, ``before`` and ``after`` conflicts were settled.
    overlap : list[list[float | None]] or None
        Which part of each contributor's key space lies in each other's.
    contributors : list[int]
        Clients whose key spaces ``overlap`` compares.
    peak_rss_mb : float
        Largest resident memory a client reported.
    update_norm : float or None
        Frobenius norm of the total change of the shared weights after this round.
    """

    round: int
    edits: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    optimized: int = 0
    reused: int = 0
    left_out: dict[int, str] = field(default_factory=dict)
    merged: list[int] = field(default_factory=list)
    clients: dict[int, Sums] = field(default_factory=dict)
    groups: dict[str, dict[int, Sums]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    conflicts: dict[str, int] = field(default_factory=dict)
    judged: dict[str, dict[str, Sums]] = field(default_factory=dict)
    overlap: list[list[float | None]] | None = None
    contributors: list[int] = field(default_factory=list)
    peak_rss_mb: float = 0.0
    update_norm: float | None = None

    def spend(self, phase: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


def no_reply(timeout: float) -> str:
    """Say what is known of a client that did not answer."""
    return f"no reply within {timeout:g} s, or no longer connected"


def good_reply(reply: Message | None, timeout: float) -> Message:
    """Return a reply that arrived without error.

    Raises
    ------
    PayloadError
        If there is none, or the client raised.
    """
    if reply is None:
        raise PayloadError(no_reply(timeout))
    if reply.has_error():
        raise PayloadError(reason(reply))
    return reply


def note_costs(reply: Message, record: RoundRecord) -> None:
    """Book what the client reports it spent.

    Raises
    ------
    PayloadError
        If that is nothing that could have been spent; then nothing is booked.
    """
    costs = wire.read_costs(reply.content)
    if "payload" in reply.content.array_records:
        record.up_bytes += wire.num_bytes(reply.content.array_records["payload"])
    for name, value in costs.items():
        if name.startswith("seconds-"):
            record.spend(name.removeprefix("seconds-"), float(value))
        elif name.startswith("count-"):
            key = name.removeprefix("count-")
            record.counts[key] = record.counts.get(key, 0) + value
        elif name == "optimized":
            record.optimized += int(value)
        elif name == "reused":
            record.reused += int(value)
        elif name == "peak-rss-mb":
            record.peak_rss_mb = max(record.peak_rss_mb, float(value))
