"""config.secret: a text that shows itself nowhere but to who asks for it by name."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from typing import Annotated

import msgspec
import pytest

from postroika.config.check import conversion_problem
from postroika.config.secret import Secret, decode_whole, encode_shown, encode_whole, secret_from
from postroika.config.text import toml_value

TEXT = "correct horse"


class Login(msgspec.Struct, frozen=True):
    name: str
    password: Annotated[Secret, "What the smarthost wants to hear."] = Secret()


class Account(msgspec.Struct, frozen=True):
    login: tuple[Login, ...]


ACCOUNT = Account((Login("a", Secret(TEXT)), Login("b")))


def test_it_is_revealed_to_who_asks() -> None:
    assert Secret(TEXT).reveal() == TEXT


@pytest.mark.parametrize(
    "shown",
    [
        str(Secret(TEXT)),
        repr(Secret(TEXT)),
        f"{Secret(TEXT)}",
        f"{Secret(TEXT):>40}",
        "{0!r} {0!s}".format(Secret(TEXT)),
        "%s" % Secret(TEXT),  # noqa: UP031 - as logging does it
        repr(ACCOUNT),
        str(msgspec.structs.asdict(ACCOUNT.login[0])),
        encode_shown(ACCOUNT).decode(),
        toml_value(Secret(TEXT)),
        repr([Secret(TEXT)]),
        repr(msgspec.structs.replace(ACCOUNT.login[0], name="c")),
    ],
)
def test_it_is_hidden_from_everybody_else(shown: str) -> None:
    assert TEXT not in shown
    assert "hidden" in shown


def test_it_is_hidden_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("test").warning("%s %r", ACCOUNT, Secret(TEXT))
    assert TEXT not in caplog.text


def test_json_that_is_shown() -> None:
    assert json.loads(encode_shown(ACCOUNT)) == {
        "login": [{"name": "a", "password": "(hidden)"}, {"name": "b", "password": ""}]
    }


def test_a_worker_gets_it_whole() -> None:
    assert decode_whole(encode_whole(ACCOUNT), Account) == ACCOUNT


def test_encoder_without_a_hook_refuses_it() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode(Secret(TEXT))


@pytest.mark.parametrize("carry", [pickle.dumps, copy.deepcopy])
def test_it_is_carried_nowhere(carry) -> None:
    with pytest.raises(TypeError, match="not to be serialised"):
        carry(Secret(TEXT))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (Secret("a"), Secret("a"), True),
        (Secret("a"), Secret("b"), False),
        (Secret("é"), Secret("é"), True),
        (Secret(), Secret(""), True),
        (Secret("a"), "a", False),
    ],
)
def test_equality(one: Secret, other: object, equal: bool) -> None:
    assert (one == other) is equal
    if equal:
        assert hash(one) == hash(other)


def test_nothing_given_shows_as_nothing() -> None:
    assert (str(Secret()), repr(Secret()), bool(Secret()), bool(Secret("a"))) == ("", "Secret('')", False, True)


def test_wrong_type_is_told_without_what_was_given() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"name": "a", "password": [TEXT]}, Login, dec_hook=secret_from)
    assert conversion_problem(caught.value) == ("password", "expected a string")
