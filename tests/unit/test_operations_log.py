"""process.operations_log: nobody but us can begin a line, or say anything to a terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from postroika.process.operations_log import OneLine, plain

FORGED = "2026-11-22 10:00:00,000 worker 0 ERROR the disk failed"


@pytest.fixture
def output() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(levelname)s %(message)s"))
    logger = logging.getLogger("test_operations_log")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)
    logger.propagate = True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 text", "plain é 漢 text"),
        (f"a\n{FORGED}", f"a\\x0a{FORGED}"),
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("\0\t\x1b[2J\x7f", "\\x00\\x09\\x1b[2J\\x7f"),
        ("\x85\x9b31m", "\\x85\\x9b31m"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("moc.elpmaxe\u202e", "moc.elpmaxe\\u202e"),
        ("\u2066a\u2069\u200b", "\\u2066a\\u2069\\u200b"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_not_to_be_printed_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029])
def test_no_control_character_passes(code: int) -> None:
    assert chr(code) not in plain(f"a{chr(code)}b")
    assert len(plain(f"a{chr(code)}b").splitlines()) == 1


def test_a_message_is_one_line(output: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = output
    logger.error("the peer says %s", f"x\n{FORGED}")
    assert stream.getvalue() == f"ERROR the peer says x\\x0a{FORGED}\n"


def test_a_traceback_is_indented_with_all_that_a_peer_has_brought_into_it(
    output: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = output
    try:
        raise ValueError(f"x\n{FORGED}\r\x1b[1A")
    except ValueError:
        logger.exception("a bug")
    first, *rest = stream.getvalue().splitlines()
    assert first == "ERROR a bug"
    assert rest[-2:] == ["    ValueError: x", f"    {FORGED}\\x0d\\x1b[1A"]
    assert all(line.startswith("    ") for line in rest)


def test_a_stack_is_indented(output: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = output
    logger.error("here", stack_info=True)
    first, *rest = stream.getvalue().splitlines()
    assert first == "ERROR here"
    assert all(line.startswith("    ") for line in rest)
