"""Settings of the load generator: what is refused, and that the command line can say all of them."""

from __future__ import annotations

from typing import Any

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.bench.load import Load
from postroika.bench.load_settings import LoadSettings
from postroika.cli.bench_load import command
from postroika.errors import PostroikaError

TARGET = "127.0.0.1:2525"
OTHERS: dict[str, Any] = {
    "sessions": 7,
    "idle_sessions": 8,
    "messages": 9,
    "messages_per_connection": 10,
    "size": "4k:1,5k:2",
    "recipients": 11,
    "domains": 12,
    "domain": "x{}.test",
    "sender": "",
    "helo": "other.test",
    "pipelining": False,
    "across": False,
    "bdat": True,
    "tls": "starttls",
    "rate_per_s": 1.5,
    "duration_s": 2.5,
    "deadline_s": 3.5,
    "reply_timeout_s": 4.5,
    "patience_s": 5.5,
    "run": "01234567",
}


def parsed(arguments: list[str]) -> LoadSettings:
    """What the command would run."""
    context = command.make_context("load", arguments)
    options = dict(context.params)
    for beside in ("json_file", "status_file"):
        del options[beside]
    return LoadSettings(**options)


def test_the_command_has_the_same_defaults() -> None:
    assert parsed([TARGET]) == LoadSettings(target=TARGET)


def test_every_setting_has_another_value_here() -> None:
    assert set(OTHERS) == {field.name for field in msgspec.structs.fields(LoadSettings)} - {"target"}


@given(st.sets(st.sampled_from(sorted(OTHERS))))
def test_settings_go_through_the_command_line_unchanged(names: set[str]) -> None:
    settings = LoadSettings(target=TARGET, **{name: OTHERS[name] for name in names})
    assert parsed(settings.to_arguments()) == settings
    settings.check()


def test_every_option_says_what_it_is_for() -> None:
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "localhost"}, "target: 'localhost' has no port"),
        ({"sessions": -1}, "sessions is -1: not within 0 to 60000"),
        ({"sessions": 0}, "there is no session to send over"),
        ({"sessions": 0, "idle_sessions": 1}, "without a duration there must be sessions, and a number of messages"),
        ({"messages": 0}, "without a duration there must be sessions, and a number of messages"),
        ({"recipients": 0}, "recipients is 0: not within 1 to 1e+07"),
        ({"rate_per_s": float("nan")}, "rate_per_s is nan: not within 0 to 1e+07"),
        ({"reply_timeout_s": 0}, "reply_timeout_s is 0: not within 0.1 to 1e+07"),
        ({"run": "ABCDEF01"}, "run cannot be 'ABCDEF01'"),
        ({"sender": "a b@c"}, "sender cannot be 'a b@c'"),
        ({"sender": "a@c>\r\nDATA"}, "sender cannot be 'a@c>\\r\\nDATA'"),
        ({"helo": ""}, "helo cannot be ''"),
        ({"helo": "a b"}, "helo cannot be 'a b'"),
        ({"domain": "d{}{}.test"}, "domain cannot be 'd{}{}.test'"),
        ({"domain": ""}, "domain cannot be ''"),
        ({"size": "4x"}, "size '4x' is not a number of octets, as 4096 or 4k, nor SIZE:WEIGHT,…"),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PostroikaError) as caught:
        Load(LoadSettings(**({"target": TARGET} | changes)))
    assert str(caught.value) == reason
