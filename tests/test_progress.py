"""Progress as events that another process can follow."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fleke_flwr.progress import EventFile, Progress, Silent


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_events_come_in_order_with_what_belongs_to_them(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    progress: Progress = EventFile(path)
    progress.start("targets", 3)
    progress.advance("targets")
    progress.advance("targets", 2)
    progress.line("covariance reused\nfrom “there”")
    found = events(path)
    times = [event.pop("time") for event in found]
    assert found == [
        {"event": "start", "phase": "targets", "total": 3},
        {"event": "advance", "phase": "targets", "amount": 1},
        {"event": "advance", "phase": "targets", "amount": 2},
        {"event": "line", "text": "covariance reused\nfrom “there”"},
    ]
    assert times == sorted(times)
    assert all(isinstance(time, float) for time in times)


def test_an_earlier_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for text in ("first", "second"):
        EventFile(path).line(text)
    assert [event["text"] for event in events(path)] == ["first", "second"]


def test_several_writers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    def write(name: str) -> None:
        progress = EventFile(path)
        for _ in range(50):
            progress.advance(name)

    writers = [Thread(target=write, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = events(path)
    assert {name: sum(e["phase"] == name for e in found) for name in "abc"} == dict.fromkeys(
        "abc", 50
    )


def test_silence_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress: Progress = Silent()
    progress.start("targets", 3)
    progress.advance("targets")
    progress.line("text")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
