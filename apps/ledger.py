"""What a client has taken back and strengthened since conflicts were settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import ConfigRecord, RecordDict

from fleke_flwr.tags import edit_tag
from fleke_flwr.types import EditRequest


@dataclass(frozen=True)
class Entry:
    """One edit of this client that a verdict was about.

    Parameters
    ----------
    settled : int
        Round in which the verdict was given.
    round : int
        Round to which the edit belongs.
    tag : str
        The edit.
    """

    settled: int
    round: int
    tag: str

    def __str__(self) -> str:
        """Return the form that :meth:`parse` reads."""
        return f"{self.settled} {self.round} {self.tag}"

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Rebuild from text."""
        settled, round_, tag = text.split(" ")
        return cls(int(settled), int(round_), tag)


@dataclass(frozen=True)
class Ledger:
    """The verdicts so far, in the order in which they came.

    Parameters
    ----------
    withdrawn, strengthened : tuple[Entry, ...]
        Edits that lost and edits that won.
    """

    withdrawn: tuple[Entry, ...] = ()
    strengthened: tuple[Entry, ...] = ()

    def plus(self, withdrawn: Iterable[Entry], strengthened: Iterable[Entry]) -> Ledger:
        """Add verdicts; one that is known already changes nothing."""
        return replace(
            self,
            withdrawn=tuple(dict.fromkeys([*self.withdrawn, *withdrawn])),
            strengthened=tuple(dict.fromkeys([*self.strengthened, *strengthened])),
        )

    def keeps(self, round_: int, tag: str) -> bool:
        """Tell whether an edit of a round still stands."""
        return all((entry.round, entry.tag) != (round_, tag) for entry in self.withdrawn)

    def save(self, memory: RecordDict, variant: str) -> None:
        """Write into the node's Flower state."""
        memory[_name(variant)] = ConfigRecord(
            {
                "withdrawn": [str(entry) for entry in self.withdrawn],
                "strengthened": [str(entry) for entry in self.strengthened],
            }
        )

    @classmethod
    def load(cls, memory: RecordDict, variant: str) -> Ledger:
        """Read from the node's Flower state; empty for a variant that has none."""
        found = memory.config_records.get(_name(variant))
        if found is None:
            return cls()
        parts = {}
        for part in ("withdrawn", "strengthened"):
            texts = found[part]
            assert isinstance(texts, list)  # written by save
            parts[part] = tuple(Entry.parse(str(text)) for text in texts)
        return cls(**parts)


@dataclass(frozen=True)
class Tagged:
    """A request with the round it belongs to and its tag."""

    round: int
    request: EditRequest
    tag: str


@dataclass(frozen=True)
class TaggedRounds:
    """A client's requests by round.

    Parameters
    ----------
    rounds : Mapping[int, Sequence[EditRequest]]
        Requests by round, from 1.
    key : str
        Of the tags.
    """

    rounds: Mapping[int, Sequence[EditRequest]]
    key: str = ""
    all: tuple[Tagged, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Name every request."""
        tagged = tuple(
            Tagged(round_, request, edit_tag(request, self.key))
            for round_, requests in self.rounds.items()
            for request in requests
        )
        object.__setattr__(self, "all", tagged)

    def standing(self, ledger: Ledger) -> list[Tagged]:
        """Return the requests that have not been taken back."""
        return [item for item in self.all if ledger.keeps(item.round, item.tag)]


def _name(variant: str) -> str:
    return f"ledger {variant}"
