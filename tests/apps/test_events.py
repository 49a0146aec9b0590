"""Events reach the view once, in order, and only when they are complete."""

from __future__ import annotations

from pathlib import Path

from fleke_flwr.apps.events import EventReader
from fleke_flwr.progress import EventFile


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def start(self, phase: str, total: int) -> None:
        self.calls.append(("start", phase, total))

    def advance(self, phase: str, amount: int = 1) -> None:
        self.calls.append(("advance", phase, amount))

    def line(self, text: str) -> None:
        self.calls.append(("line", text))


def test_what_is_written_is_forwarded_once(tmp_path: Path) -> None:
    path, seen = tmp_path / "events.jsonl", Recorder()
    reader, writer = EventReader(path), EventFile(path)
    reader.forward(seen)
    assert seen.calls == []
    writer.start("targets", 50)
    writer.advance("targets", 3)
    reader.forward(seen)
    writer.line("round 1/1 | edits 400")
    reader.forward(seen)
    reader.forward(seen)
    assert seen.calls == [
        ("start", "targets", 50),
        ("advance", "targets", 3),
        ("line", "round 1/1 | edits 400"),
    ]


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path, seen = tmp_path / "events.jsonl", Recorder()
    reader = EventReader(path)
    path.write_text('{"event": "line", "te')
    reader.forward(seen)
    assert seen.calls == []
    with path.open("a") as file:
        file.write('xt": "whole"}\n')
    reader.forward(seen)
    assert seen.calls == [("line", "whole")]
