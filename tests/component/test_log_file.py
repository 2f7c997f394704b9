"""The event log as a file: whole lines through rotation, removal, torn tails and full disks."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio.testing

from postroika.errors import SinkError
from postroika.outcome import sinks
from postroika.outcome.sinks import Discard, EventLog, LogFile


def log_file(directory: Path, rotate_bytes: int = 1 << 20, keep: int = 3) -> LogFile:
    return LogFile(directory / "events.jsonl", rotate_bytes=rotate_bytes, keep=keep)


def files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(directory.iterdir()) if path.suffix != ".lock"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full at `size` octets a file: a write is cut short first, and then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_directory_and_file_are_made_and_not_open_to_everyone(tmp_path: Path) -> None:
    log = log_file(tmp_path / "var/log")
    log.append(b"one\n")
    log.append(b"two\nthree\n")
    log.close()
    assert files(tmp_path / "var/log") == {"events.jsonl": "one\ntwo\nthree\n"}
    assert (tmp_path / "var/log/events.jsonl").stat().st_mode & 0o007 == 0


def test_rotation_keeps_so_many_and_never_splits_an_append(tmp_path: Path) -> None:
    log = log_file(tmp_path, rotate_bytes=10, keep=2)
    for lines in (b"a1\na2\n", b"b1\n", b"c1\nc2\n", b"d1\nd2\nd3\nd4\nd5\n", b"e1\n"):
        log.append(lines)
    log.close()
    assert files(tmp_path) == {
        "events.jsonl": "e1\n",
        "events.jsonl.1": "d1\nd2\nd3\nd4\nd5\n",
        "events.jsonl.2": "c1\nc2\n",
    }


def test_a_gap_among_the_rotated_files_is_filled(tmp_path: Path) -> None:
    for name, text in {"events.jsonl.1": "b\n", "events.jsonl.3": "a\n"}.items():
        (tmp_path / name).write_text(text)
    log = log_file(tmp_path)
    log.append(b"c\n")
    log.reopen()
    log.close()
    assert files(tmp_path) == {
        "events.jsonl": "",
        "events.jsonl.1": "c\n",
        "events.jsonl.2": "b\n",
        "events.jsonl.3": "a\n",
    }


def test_nothing_is_kept_if_so_asked(tmp_path: Path) -> None:
    log = log_file(tmp_path, rotate_bytes=4, keep=0)
    for lines in (b"a1\n", b"b1\n", b"c1\n"):
        log.append(lines)
    log.close()
    assert files(tmp_path) == {"events.jsonl": "c1\n"}


def test_another_writer_follows_a_rotation(tmp_path: Path) -> None:
    first, second = log_file(tmp_path, rotate_bytes=6), log_file(tmp_path, rotate_bytes=6)
    first.append(b"a1\n")
    second.append(b"b1\n")
    first.append(b"a2\n")  # rotates
    second.append(b"b2\n")
    first.append(b"a3\n")  # rotates
    for log in (first, second):
        log.close()
    assert files(tmp_path) == {"events.jsonl": "a3\n", "events.jsonl.1": "a2\nb2\n", "events.jsonl.2": "a1\nb1\n"}


def test_file_moved_away_is_left_alone_and_a_new_one_begun(tmp_path: Path) -> None:
    log = log_file(tmp_path)
    log.append(b"old\n")
    (tmp_path / "events.jsonl").rename(tmp_path / "kept")
    log.append(b"new\n")
    log.close()
    assert files(tmp_path) == {"events.jsonl": "new\n", "kept": "old\n"}


def test_signal_after_a_move_makes_the_new_file_at_once_and_rotates_nothing(tmp_path: Path) -> None:
    logs = [log_file(tmp_path) for _ in range(3)]
    for log in logs[:2]:
        log.append(b"old\n")
    (tmp_path / "events.jsonl").rename(tmp_path / "kept")
    logs[0].append(b"new\n")
    for log in logs:
        log.reopen()
        log.close()
    assert files(tmp_path) == {"events.jsonl": "new\n", "kept": "old\nold\n"}


def test_signal_after_a_move_makes_the_file_of_an_idle_server(tmp_path: Path) -> None:
    log = log_file(tmp_path)
    log.append(b"old\n")
    (tmp_path / "events.jsonl").rename(tmp_path / "kept")
    log.reopen()
    log.close()
    assert files(tmp_path) == {"events.jsonl": "", "kept": "old\n"}


def test_signal_to_all_workers_rotates_once(tmp_path: Path) -> None:
    logs = [log_file(tmp_path) for _ in range(3)]
    for log in logs[:2]:
        log.append(b"old\n")
    logs[0].reopen()
    logs[1].append(b"new\n")
    for log in logs[1:]:
        log.reopen()
    assert files(tmp_path) == {"events.jsonl": "new\n", "events.jsonl.1": "old\nold\n"}
    an_hour_ago = (tmp_path / "events.jsonl.lock").stat().st_mtime - 3600
    os.utime(tmp_path / "events.jsonl.lock", (an_hour_ago, an_hour_ago))
    for log in logs:
        log.reopen()
        log.close()
    assert files(tmp_path) == {"events.jsonl": "", "events.jsonl.1": "new\n", "events.jsonl.2": "old\nold\n"}


def test_empty_file_is_not_rotated(tmp_path: Path) -> None:
    log = log_file(tmp_path)
    log.reopen()
    log.close()
    assert files(tmp_path) == {"events.jsonl": ""}


def test_removed_directory_and_removed_lock_are_made_again(tmp_path: Path) -> None:
    log = log_file(tmp_path / "log")
    log.append(b"one\n")
    for name in ("events.jsonl", "events.jsonl.lock"):
        (tmp_path / "log" / name).unlink()
    (tmp_path / "log").rmdir()
    log.append(b"two\n")
    log.close()
    assert files(tmp_path / "log") == {"events.jsonl": "two\n"}


@pytest.mark.parametrize("whole", ["", "one\ntwo\n", "x" * 200_000 + "\n"])
@pytest.mark.parametrize("torn", ["t", '{"id":"6g', "y" * 200_000])
def test_line_that_a_killed_writer_left_half_is_cut_off(tmp_path: Path, whole: str, torn: str) -> None:
    (tmp_path / "events.jsonl").write_text(whole + torn)
    log = log_file(tmp_path)
    log.append(b"next\n")
    log.close()
    assert files(tmp_path) == {"events.jsonl": whole + "next\n"}


def test_full_disk_takes_nothing_and_leaves_no_half_line(tmp_path: Path) -> None:
    log = log_file(tmp_path)
    log.append(b"one\n")
    with largest_file(10), pytest.raises(OSError) as caught:
        log.append(b"two\n" + b"x" * 100 + b"\n")
    assert caught.value.errno == errno.EFBIG
    assert files(tmp_path) == {"events.jsonl": "one\n"}
    log.append(b"three\n")
    log.close()
    assert files(tmp_path) == {"events.jsonl": "one\nthree\n"}


def test_lock_that_is_never_let_go_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "LOCK_TIMEOUT_S", 0.01)
    log = log_file(tmp_path)
    log.append(b"one\n")
    with (tmp_path / "events.jsonl.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="another process holds the lock"):
            log.append(b"two\n")
    log.append(b"three\n")
    log.close()
    assert files(tmp_path) == {"events.jsonl": "one\nthree\n"}


def test_sync_looks_after_the_files_that_were_left_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    log = log_file(tmp_path, rotate_bytes=4)
    for lines in (b"a1\n", b"b1\n", b"c1\n"):
        log.append(lines)
    log.sync()
    names = ("events.jsonl.2", "events.jsonl.1", "events.jsonl", ".")
    assert synced == [(tmp_path / name).stat().st_ino for name in names]
    log.sync()
    log.append(b"d1\n")
    log.close()
    assert synced[4:] == [(tmp_path / name).stat().st_ino for name in ("events.jsonl", ".")]


def test_failed_sync_is_told_and_no_descriptor_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    log = log_file(tmp_path, rotate_bytes=4)
    log.append(b"a1\n")
    log.append(b"b1\n")

    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(os, "fsync", fsync)
        log.sync()
    log.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert files(tmp_path) == {"events.jsonl": "b1\n", "events.jsonl.1": "a1\n"}


async def test_event_log_writes_syncs_and_closes(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log/events.jsonl", rotate_bytes=1000, keep=1)
    await log.write(b"one\n")
    await log.sync()
    await log.reopen()
    await log.aclose()
    assert files(tmp_path / "log") == {"events.jsonl": "", "events.jsonl.1": "one\n"}
    assert str(log) == f"event log {tmp_path}/log/events.jsonl"


async def test_event_log_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = EventLog(tmp_path / "file/events.jsonl", rotate_bytes=1000, keep=1)
    for call in (lambda: log.write(b"one\n"), log.reopen):
        with pytest.raises(SinkError, match=f"File exists: {tmp_path}/file"):
            await call()
    await log.sync()
    await log.aclose()


async def test_discard_takes_everything() -> None:
    sink = Discard()
    with trio.testing.assert_checkpoints():
        await sink.write(b"one\n")
    with trio.testing.assert_checkpoints():
        await sink.sync()
    assert str(sink) == "no event log"
