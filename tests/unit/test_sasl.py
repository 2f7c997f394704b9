"""smtp.sasl, smtp.scram, smtp.mechanisms: exchanges as the RFCs show them, and as an independent client holds them."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
import scramp

from postroika.smtp.mechanisms import mechanisms, open_exchange
from postroika.smtp.sasl import (
    Challenge,
    CheckPassword,
    Exchange,
    Failed,
    FindKeys,
    Proven,
    Step,
    Succeeded,
    account_name,
    prepared,
)
from postroika.smtp.scram import Scram, ScramKeys, Usual, keys_of, keys_of_nobody, read_keys
from tests.unit.scram_example import CLIENT_FINAL, CLIENT_FIRST, PENCIL, SERVER_FINAL, SERVER_FIRST, SERVER_NONCE

UNIQUE = {"tls-unique": b"the first Finished message"}


def malformed(step: Step) -> bool:
    return isinstance(step, Failed) and step.malformed


# ---- PLAIN and LOGIN


@pytest.mark.parametrize("begins_with_it", [True, False])
@pytest.mark.parametrize(
    ("message", "step"),
    [
        (b"\0tim\0tanstaaftanstaaf", CheckPassword("tim", "tanstaaftanstaaf")),  # RFC 4616 §4
        (b"tim\0tim\0x", CheckPassword("tim", "x")),
        (b"\0Tim@Shop.Example\0X y", CheckPassword("tim@shop.example", "X y")),
        ("\0jürgen\0pä\u00a0ß".encode(), CheckPassword("jürgen", "pä ß")),
        (b"\0tim\0", CheckPassword("tim", "")),
        (b"Kurt\0tim\0x", Failed("tim", "wanted to act for another account")),
        (b"\0tim\0a\x07b", Failed("tim", "not text")),
        (b"\0tim\0\xff", Failed("tim", "not text")),
    ],
)
def test_plain(message: bytes, step: Step, begins_with_it: bool) -> None:
    exchange = open_exchange("PLAIN", {})
    if begins_with_it:
        assert exchange.begin(message) == step
    else:
        assert exchange.begin(None) == Challenge(b"")
        assert exchange.respond(message) == step


@pytest.mark.parametrize(
    "message",
    [b"", b"tim", b"\0tim", b"\0tim\0x\0", b"\0\0x", b"\0\xff\0x", b"\0t\nim\0x", b"\0" + b"n" * 256 + b"\0x"],
)
def test_plain_that_makes_no_sense(message: bytes) -> None:
    assert malformed(open_exchange("PLAIN", {}).begin(message))


def test_login_asks_for_name_and_password() -> None:
    exchange = open_exchange("LOGIN", {})
    assert exchange.begin(None) == Challenge(b"Username:")
    assert exchange.respond(b"Tim") == Challenge(b"Password:")
    assert exchange.respond(b"x") == CheckPassword("tim", "x")


def test_login_with_the_name_at_once() -> None:
    exchange = open_exchange("LOGIN", {})
    assert exchange.begin(b"tim") == Challenge(b"Password:")
    assert exchange.respond(b"x") == CheckPassword("tim", "x")


def test_password_is_not_in_the_text_of_a_step() -> None:
    assert "geheim" not in f"{CheckPassword('tim', 'geheim')!r} {CheckPassword('tim', 'geheim')}"


# ---- names


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 §3
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u3000b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("🔑", "🔑"),
    ],
)
def test_text_is_prepared(text: str, form: str) -> None:
    assert prepared(text) == form


@pytest.mark.parametrize("text", ["\x07", "a\u0007ä", "\u0627\u0031", "\u0627b", "\ue000"])
def test_text_that_cannot_be_prepared(text: str) -> None:
    with pytest.raises(ValueError):
        prepared(text)


@pytest.mark.parametrize("text", ["", "\u00ad", "a\nb", "n" * 256])
def test_what_no_account_can_be_called(text: str) -> None:
    with pytest.raises(ValueError):
        account_name(text)


# ---- SCRAM


def scram(*, plus: bool = False, bindings: dict[str, bytes] | None = None) -> Scram:
    return Scram(bindings or {}, plus=plus, nonce=SERVER_NONCE)


@pytest.mark.parametrize("begins_with_it", [True, False])
def test_scram_as_in_the_rfc(begins_with_it: bool) -> None:
    exchange = scram()
    if begins_with_it:
        step = exchange.begin(CLIENT_FIRST)
    else:
        assert exchange.begin(None) == Challenge(b"")
        step = exchange.respond(CLIENT_FIRST)
    assert step == FindKeys("user")
    assert exchange.use(PENCIL) == Challenge(SERVER_FIRST)
    assert exchange.respond(CLIENT_FINAL) == Proven("user", SERVER_FINAL)
    assert exchange.respond(b"") == Succeeded("user")


def held(
    client: scramp.ScramClient, exchange: Exchange, keys: ScramKeys, *, change: tuple[bytes, bytes] = (b"", b"")
) -> Step:
    """The last step of an exchange with an independent client. `change` of its final message: (what, into what)."""
    step = exchange.begin(client.get_client_first().encode())
    if not isinstance(step, FindKeys):
        return step
    assert isinstance(exchange, Scram)
    step = exchange.use(keys)
    assert isinstance(step, Challenge)
    client.set_server_first(step.octets.decode())
    step = exchange.respond(client.get_client_final().encode().replace(*change))
    if not isinstance(step, Proven):
        return step
    client.set_server_final(step.octets.decode())
    return exchange.respond(b"")


@pytest.mark.parametrize("name", ["user", "a,b=c", "Jürgen@Shop.Example"])
@pytest.mark.parametrize("plus", [False, True])
def test_independent_client_gets_in(name: str, plus: bool) -> None:
    binding = ("tls-unique", UNIQUE["tls-unique"])
    mechanism = "SCRAM-SHA-256-PLUS" if plus else "SCRAM-SHA-256"
    client = scramp.ScramClient([mechanism], name, "pencil", channel_binding=binding if plus else None)
    exchange = open_exchange(mechanism, UNIQUE if plus else {})
    assert held(client, exchange, keys_of("pencil", iterations=4096)) == Succeeded(name.lower())


@pytest.mark.parametrize(
    ("password", "keys"),
    [("pencil", keys_of("crayon", iterations=4096)), ("pencil", keys_of_nobody(b"seed", "user", Usual()))],
)
def test_wrong_password_and_nobody_fail_alike(password: str, keys: ScramKeys) -> None:
    client = scramp.ScramClient(["SCRAM-SHA-256"], "user", password)
    assert held(client, open_exchange("SCRAM-SHA-256", {}), keys) == Failed("user", "")


def test_binding_to_another_connection_is_refused() -> None:
    client = scramp.ScramClient(
        ["SCRAM-SHA-256-PLUS"], "user", "pencil", channel_binding=("tls-unique", b"that of a man in the middle")
    )
    step = held(client, open_exchange("SCRAM-SHA-256-PLUS", UNIQUE), PENCIL)
    assert step == Failed("user", "SCRAM: bound to another connection")


def test_nonce_of_another_exchange_is_refused() -> None:
    client = scramp.ScramClient(["SCRAM-SHA-256"], "user", "pencil")
    step = held(client, open_exchange("SCRAM-SHA-256", {}), PENCIL, change=(b",r=", b",r=x"))
    assert step == Failed("user", "SCRAM: another nonce")


def test_client_that_could_bind_and_was_not_offered_it_is_refused() -> None:
    step = scram(bindings=UNIQUE).begin(b"y,,n=user,r=abc")
    assert step == Failed("", "SCRAM: somebody has hidden -PLUS from the client")
    assert scram().begin(b"y,,n=user,r=abc") == FindKeys("user")


@pytest.mark.parametrize(
    "message",
    [
        b"", b"n", b"n,", b"n,,", b"n,,n=user", b"n,,n=,r=abc", b"n,,n=user,r=", b"n,,n=user,x=abc", b"n,,r=abc,n=user",
        b"n,,m=ext,n=user,r=abc", b"x,,n=user,r=abc", b"p=tls-unique,,n=user,r=abc", b"n,,n=us=er,r=abc",
        b"n,,n=user,r=a\x07b", "n,,n=user,r=ä".encode(), b"n,,n=user,r=" + b"x" * 600, b"\xff\xff",
        b"n,,n=" + b"x" * 5000 + b",r=abc", b"n,a==,n=user,r=abc",
    ],
)  # fmt: skip
def test_first_message_that_makes_no_sense(message: bytes) -> None:
    assert malformed(scram().begin(message)), message


@pytest.mark.parametrize("message", [b"n,,n=user,r=abc", b"y,,n=user,r=abc", b"p=tls-other,,n=user,r=abc"])
def test_plus_needs_a_binding_that_we_have(message: bytes) -> None:
    assert malformed(scram(plus=True, bindings=UNIQUE).begin(message))


def test_acting_for_another_account_is_refused() -> None:
    assert scram().begin(b"n,a=User,n=user,r=abc") == FindKeys("user")
    for message in (b"n,a=other,n=user,r=abc", b"n,x=user,n=user,r=abc"):
        assert scram().begin(message) == Failed("user", "wanted to act for another account")


@pytest.mark.parametrize(
    "message",
    [
        b"", b"c=biws", b"c=biws,r=x", b"c=biws,p=AAAA", b"r=x,c=biws,p=AAAA", b"c=!,r=x,p=AAAA",
        CLIENT_FINAL[:-1], CLIENT_FINAL[:-4], CLIENT_FINAL + b"AAAA", b"\xff",
    ],
)  # fmt: skip
def test_final_message_that_makes_no_sense(message: bytes) -> None:
    exchange = scram()
    exchange.begin(CLIENT_FIRST)
    exchange.use(PENCIL)
    assert malformed(exchange.respond(message)), message


def test_answer_to_our_signature_has_to_be_empty() -> None:
    exchange = scram()
    exchange.begin(CLIENT_FIRST)
    exchange.use(PENCIL)
    exchange.respond(CLIENT_FINAL)
    assert malformed(exchange.respond(b"thanks"))


@pytest.mark.parametrize("bit", range(0, 256, 17))
def test_a_proof_with_one_wrong_bit_fails(bit: int) -> None:
    head, _, proof = CLIENT_FINAL.rpartition(b"=dHzb")
    octets = bytearray(b64decode(b"dHzb" + proof))
    octets[bit // 8] ^= 1 << bit % 8
    exchange = scram()
    exchange.begin(CLIENT_FIRST)
    exchange.use(PENCIL)
    assert exchange.respond(head + b"=" + b64encode(octets)) == Failed("user", "")


def test_keys_are_read_as_they_are_written() -> None:
    assert read_keys(PENCIL.text()) == PENCIL
    head = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    assert PENCIL.text().startswith(head)
    assert "WG5d" not in repr(PENCIL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "SCRAM-SHA-1$4096:AAAA$AAAA:AAAA",
        "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
        PENCIL.text().replace("4096", "1"),
    ],
)
def test_text_that_is_no_keys(text: str) -> None:
    with pytest.raises(ValueError):
        read_keys(text)


def test_nobody_has_always_the_same_salt() -> None:
    one, again, other = (keys_of_nobody(b"seed", name, Usual()) for name in ("nobody", "nobody", "nobody else"))
    assert (one.salt, one.iterations) == (again.salt, again.iterations)
    assert one.salt != other.salt
    assert one.stored_key != again.stored_key
    assert len(one.salt) == len(keys_of("x", iterations=4096).salt)


def test_plus_is_offered_where_there_is_a_binding() -> None:
    assert mechanisms({}) == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    assert mechanisms(UNIQUE) == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN")
