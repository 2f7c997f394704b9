"""Figures in words, and text from outside on a terminal."""

from __future__ import annotations

import click
import pytest

from postroika.cli._event_lines import STYLES
from postroika.cli._words import count, duration, parse_duration, size, visible
from postroika.cli.events import TYPES

MIB = 1 << 20


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (3600, "1h00m"),
        (11_100, "3h05m"),
        (86_399, "23h59m"),
        (86_400, "1d00h"),
        (432_000, "5d00h"),
    ],
)
def test_durations_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0K"),
        (4096, "4.0K"),
        (10_240, "10K"),
        (20 * MIB, "20M"),
        (5 << 40, "5.0T"),
        (50_000 << 40, "50000T"),
    ],
)
def test_sizes_are_short(octets: int, text: str) -> None:
    assert size(octets) == text


def test_counts_know_singular_and_plural() -> None:
    assert [count(0, "message"), count(1, "message"), count(1234, "batch", "batches")] == [
        "0 messages",
        "1 message",
        "1,234 batches",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("jöran@bücher.test", "jöran@bücher.test"),
        ("a\x1b[31m\r\n\x7f", "a\\u001b[31m\\u000d\\u000a\\u007f"),
        ("right-to-left \u202e", "right-to-left \\u202e"),
    ],
)
def test_what_could_steer_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, 0), ("90", 90), ("1.5h", 5400), ("30m", 1800), ("2d", 172_800), ("1w", 604_800)]
)
def test_durations_are_read_with_their_unit(text: str | None, seconds: float) -> None:
    command = click.Command("c")
    assert parse_duration(click.Context(command), click.Option(["--x"]), text) == seconds


@pytest.mark.parametrize("text", ["x", "-1s", "1y", "nan", "inf", "1e99d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    command = click.Command("c")
    with pytest.raises(click.BadParameter, match="is not a duration such as 90s, 30m, 2h or 3d"):
        parse_duration(click.Context(command), click.Option(["--x"]), text)


def test_every_type_of_event_can_be_asked_for_and_has_its_colour() -> None:
    assert list(TYPES) == list(STYLES)
