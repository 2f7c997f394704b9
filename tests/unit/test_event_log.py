"""Reading the events log while it grows and is rotated."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroika.control import event_log
from postroika.control.event_log import EventLog
from postroika.outcome.sinks import LogFile

KEEP = 3


class Written:
    """A log with one writer. `lines(n)` appends the next n numbers, a line each."""

    def __init__(self, path: Path, *, keep: int = KEEP) -> None:
        self.path = path
        self._file = LogFile(path, rotate_bytes=1 << 30, keep=keep)
        self._number = itertools.count(1)

    def lines(self, count: int) -> list[bytes]:
        made = [b"line %d" % next(self._number) for _ in range(count)]
        self._file.append(b"".join(line + b"\n" for line in made))
        return made

    def rotate(self) -> None:
        """Begin a new file, as after a signal."""
        os.utime(self.path.with_name(self.path.name + ".lock"), (0, 0))  # the last rotation was long ago
        self._file.reopen()

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    log = Written(tmp_path / "events.jsonl")
    yield log
    log.close()


@pytest.fixture(params=[7, 1 << 18])
def _chunks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Reads so short that every line is cut, and as long as they are."""
    monkeypatch.setattr(event_log, "_READ_BYTES", request.param)


def drained(log: EventLog) -> list[bytes]:
    """All that can be read now."""
    found: list[bytes] = []
    while lines := log.read():
        found += lines
    return found


@pytest.mark.usefixtures("_chunks")
def test_reading_begins_at_the_end_and_goes_on(written: Written) -> None:
    written.lines(3)
    with EventLog(written.path, KEEP) as log:
        assert drained(log) == []
        expected = written.lines(4)
        assert drained(log) == expected
        assert drained(log) == []


@pytest.mark.usefixtures("_chunks")
def test_a_log_that_is_not_there_yet_is_read_from_its_beginning(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl", KEEP) as log:
        assert (log.is_there, drained(log), list(log.backwards())) == (False, [], [])
        written = Written(tmp_path / "events.jsonl")
        expected = written.lines(2)
        assert (drained(log), log.is_there) == (expected, True)
        written.close()


@pytest.mark.usefixtures("_chunks")
def test_rotations_lose_nothing_and_double_nothing(written: Written) -> None:
    written.lines(1)
    with EventLog(written.path, KEEP) as log:
        expected = written.lines(2)
        written.rotate()
        expected += written.lines(2)
        written.rotate()
        expected += written.lines(1)
        assert drained(log) == expected
        written.rotate()
        assert drained(log) == []
        expected = written.lines(1)
        assert drained(log) == expected


def test_the_rest_of_a_file_that_was_rotated_meanwhile_is_read_first(written: Written) -> None:
    with EventLog(written.path, KEEP) as log:
        expected = written.lines(1)
        assert log.read() == expected
        expected = written.lines(1)
        written.rotate()
        expected += written.lines(1)
        assert [log.read(), log.read()] == [expected[:1], expected[1:]]


def test_more_rotations_than_files_are_kept_skip_what_is_gone(written: Written) -> None:
    with EventLog(written.path, KEEP) as log:
        written.lines(1)
        assert len(drained(log)) == 1
        kept = []
        for _ in range(KEEP + 2):
            written.rotate()
            kept.append(written.lines(1))
        assert drained(log) == [line for lines in kept[-KEEP - 1 :] for line in lines]


def test_a_log_without_rotated_files_is_followed(tmp_path: Path) -> None:
    written = Written(tmp_path / "events.jsonl", keep=0)
    written.lines(1)
    with EventLog(written.path, 0) as log:
        written.rotate()
        expected = written.lines(2)
        assert drained(log) == expected
    written.close()


def test_a_log_that_was_moved_away_under_any_name_is_followed(written: Written) -> None:
    written.lines(1)
    written.rotate()
    with EventLog(written.path, KEEP) as log:
        expected = written.lines(1)
        written.path.rename(written.path.with_name("events.jsonl-20261121"))
        written.rotate()
        expected += written.lines(1)
        assert drained(log) == expected


def test_a_log_that_was_emptied_is_read_from_its_beginning(written: Written) -> None:
    written.lines(5)
    with EventLog(written.path, KEEP) as log:
        written.path.write_bytes(b"")
        expected = written.lines(1)
        assert drained(log) == expected


@pytest.mark.usefixtures("_chunks")
def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"one\ntw")
    with EventLog(path, KEEP) as log, path.open("ab", buffering=0) as file:
        assert (drained(log), list(log.backwards())) == ([], [b"one"])
        file.write(b"o\nthree")
        assert drained(log) == [b"two"]
        file.write(b"\n")
        assert drained(log) == [b"three"]


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("rotations", [0, 1, KEEP])
def test_backwards_goes_through_the_rotated_files(written: Written, rotations: int) -> None:
    expected = written.lines(4)
    for _ in range(rotations):
        written.rotate()
        expected += written.lines(3)
    with EventLog(written.path, KEEP) as log:
        written.lines(2)
        assert list(log.backwards()) == expected[::-1]


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("text", [b"", b"\n", b"\n\n", b"a\n", b"a\n\nb\n", b"a" * 20 + b"\n"])
def test_backwards_gives_the_lines_of_any_text(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(text)
    with EventLog(path, KEEP) as log:
        assert list(log.backwards()) == text.split(b"\n")[:-1][::-1]


def test_backwards_goes_on_while_the_log_is_rotated(written: Written) -> None:
    first = written.lines(2)
    written.rotate()
    second = written.lines(2)
    with EventLog(written.path, KEEP) as log:
        backwards = log.backwards()
        assert [next(backwards), next(backwards)] == second[::-1]
        written.rotate()
        written.lines(1)
        assert list(backwards) == first[::-1]
