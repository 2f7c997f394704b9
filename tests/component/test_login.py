"""inbound.login in a session: logging in, what it takes to be refused, and what an account may do."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
import scramp
import trio
import trio.testing

from postroika import config, metrics
from postroika.inbound import login
from postroika.inbound.failed_logins import FailedLogins
from postroika.inbound.login import Rules
from postroika.outcome.events import FailedLogin
from postroika.policy.accounts import Accounts
from postroika.policy.pipeline import Client
from postroika.tls.facts import TlsFacts
from tests.component.login_world import IN, OK, RCPT_OK, REQUIRED, TOO_LARGE, WRONG, House, Visitor, account, plain

pytestmark = pytest.mark.usefixtures("hashed")

LOCKED = "454 4.7.0 too many failed logins, please try again later\n"


async def test_account_submits_from_anywhere_to_anywhere(nursery: trio.Nursery) -> None:
    house = House(nursery)
    ann = await house.connect()
    assert "\n250 AUTH SCRAM-SHA-256 PLAIN LOGIN\n" in ann.ehlo
    assert await ann.say(b"MAIL FROM:<ann@shop.example>\r\n") == REQUIRED
    assert await ann.say(plain("Ann@Shop.Example", "secret")) == IN
    assert await ann.submit(b"From: ann@shop.example\r\n\r\nhello") == "250 2.0.0 Ok: queued as 0000000000001\n"
    (message,) = house.spool.kept
    assert message.body == (
        b"Received: from c.example ([192.0.2.7])\r\n\tby mx.test (Postroika) with ESMTPA id 0000000000001\r\n"
        b"\tfor <c@d.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <0000000000001@mx.test>\r\n"
        b"From: ann@shop.example\r\n\r\nhello\r\n"
    )
    assert message.facts is not None
    assert [message.facts[fact] for fact in ("tenant", "account", "ours")] == ["shop", "ann@shop.example", True]
    (refusal,) = house.refused
    assert (refusal.stage, refusal.reply.code, refusal.account) == ("mail", 530, "")


async def test_ehlo_announces_the_limit_of_the_account(nursery: trio.Nursery) -> None:
    house = House(nursery, account(max_message_bytes=5000), account("bob@shop.example", max_message_bytes=10**9))
    ann, bob = await house.connect(), await house.connect()
    for visitor, name, size in ((ann, "ann@shop.example", 5000), (bob, "bob@shop.example", 100_000)):
        assert "\n250-SIZE 100000\n" in visitor.ehlo
        assert await visitor.say(plain(name, "secret")) == IN
        assert f"\n250-SIZE {size}\n" in await visitor.say(b"EHLO c.example\r\n")
    assert await ann.say(b"MAIL FROM:<ann@shop.example>\r\nRCPT TO:<c@d.example>\r\n") == OK + RCPT_OK
    assert await ann.say(b"BDAT 5001 LAST\r\n" + b"x" * 5001) == TOO_LARGE


async def test_trusted_network_has_to_log_in_too_where_it_is_required(nursery: trio.Nursery) -> None:
    visitor = await House(nursery).connect("10.0.0.1")
    assert await visitor.say(b"MAIL FROM:<a@b>\r\n") == REQUIRED


@pytest.mark.parametrize("ip", ["192.0.2.7", "10.0.0.1"])
async def test_nobody_sends_where_it_is_required_and_cannot_be_had(nursery: trio.Nursery, ip: str) -> None:
    """As with tls = "none", for those who are not in xclient_from. Nobody is sent to a STARTTLS that there is not."""
    house = House(nursery, rules=Rules(required=True, without_tls=False, tls=False))
    visitor = await house.connect(ip, auth=False)
    assert "AUTH" not in visitor.ehlo
    assert await visitor.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@ours.example>\r\n") == (
        "530 5.7.0 authentication is required, and cannot be had on this port\n503 5.5.1 need MAIL command\n"
    )
    assert await visitor.say(plain("ann@shop.example", "secret")) == "502 5.5.1 AUTH is not offered\n"
    assert [(refusal.stage, refusal.reply.code) for refusal in house.refused] == [("mail", 530), ("rcpt", 503)]


async def test_where_it_is_not_required_strangers_go_on_as_before(nursery: trio.Nursery) -> None:
    house = House(nursery, rules=Rules(required=False, without_tls=True, tls=True))
    visitor = await house.connect()
    assert await visitor.say(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<c@ours.example>\r\n") == (
        OK + "550 5.7.1 relay access denied\n" + RCPT_OK
    )
    assert await visitor.say(b"RSET\r\n" + plain("ann@shop.example", "secret")) == "250 2.0.0 Ok\n" + IN
    assert await visitor.say(b"MAIL FROM:<a@b>\r\n") == "550 5.7.1 this account may not use this reverse-path\n"
    assert await visitor.say(b"MAIL FROM:<ann@shop.example>\r\nRCPT TO:<c@d.example>\r\n") == OK + RCPT_OK


async def test_pipelined_commands_behind_auth_wait_for_it(nursery: trio.Nursery) -> None:
    ann = await House(nursery).connect()
    assert await ann.say(plain("ann@shop.example", "secret") + b"MAIL FROM:<ann@shop.example>\r\n") == IN + OK


async def test_login_in_the_clear_only_where_it_is_allowed(nursery: trio.Nursery) -> None:
    house = House(nursery, rules=Rules(required=True, without_tls=False, tls=True))
    in_the_clear = await house.connect()
    assert "AUTH" not in in_the_clear.ehlo
    said = await in_the_clear.say(b"MAIL FROM:<a@b.example>\r\n")
    assert said == "530 5.7.0 STARTTLS first: authentication is required, and not offered in the clear\n"
    said = await in_the_clear.say(plain("ann@shop.example", "secret"))
    assert said == "538 5.7.11 AUTH is offered under TLS only\n"
    covered = await house.connect(tls=TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384"))
    assert "AUTH SCRAM-SHA-256 PLAIN LOGIN\n" in covered.ehlo
    assert await covered.say(plain("ann@shop.example", "secret")) == IN
    await covered.submit(b"From: ann@shop.example\r\n\r\n")
    assert b" with ESMTPSA id " in house.spool.kept[0].body


async def test_login_mechanism(nursery: trio.Nursery) -> None:
    ann = await House(nursery).connect()
    assert await ann.say(b"AUTH LOGIN\r\n") == "334 VXNlcm5hbWU6\n"
    assert await ann.say(b64encode(b"ann@shop.example") + b"\r\n") == "334 UGFzc3dvcmQ6\n"
    assert await ann.say(b64encode(b"secret") + b"\r\n") == IN


@pytest.mark.parametrize(
    ("name", "password", "good"),
    [("ann@shop.example", "secret", True), ("ann@shop.example", "wrong", False), ("nobody", "secret", False)],
)
async def test_scram(nursery: trio.Nursery, name: str, password: str, good: bool) -> None:
    house = House(nursery)
    ann = await house.connect()
    client = scramp.ScramClient(["SCRAM-SHA-256"], name, password)
    said = await ann.say(b"AUTH SCRAM-SHA-256 " + b64encode(client.get_client_first().encode()) + b"\r\n")
    client.set_server_first(b64decode(said[4:]).decode())
    said = await ann.say(b64encode(client.get_client_final().encode()) + b"\r\n")
    if good:
        client.set_server_final(b64decode(said[4:]).decode())
        assert await ann.say(b"\r\n") == IN
        assert house.failed == []
    else:
        assert said == WRONG
        why = "wrong password" if name.startswith("ann") else "no such account"
        tenant = "shop" if name.startswith("ann") else ""
        assert house.failed == [FailedLogin("192.0.2.7", "c.example", name, why, login.WRONG, tenant=tenant)]


async def prove(visitor: Visitor, name: str, password: str) -> str:
    """What is said to the proof of SCRAM."""
    client = scramp.ScramClient(["SCRAM-SHA-256"], name, password)
    said = await visitor.say(b"AUTH SCRAM-SHA-256 " + b64encode(client.get_client_first().encode()) + b"\r\n")
    client.set_server_first(b64decode(said[4:]).decode())
    return await visitor.say(b64encode(client.get_client_final().encode()) + b"\r\n")


async def test_scram_does_not_go_round_the_lock_out(nursery: trio.Nursery) -> None:
    house = House(nursery, per_ip=2)
    visitor = await house.connect()
    assert [await prove(visitor, "ann@shop.example", "wrong") for _ in range(2)] == [WRONG, WRONG]
    before = metrics.LOGINS["locked_out"].value
    visitor = await house.connect()
    said = [await prove(visitor, "ann@shop.example", password) for password in ("wrong", "secret", "secret")]
    assert said == [LOCKED, LOCKED, "421 4.7.0 too many failed logins: closing the connection\n"]
    assert metrics.LOGINS["locked_out"].value - before == 3
    locked_out = ["locked out: not looked at"] * 2  # no more of them than failures lock out
    assert [failed.reason for failed in house.failed] == ["wrong password", "wrong password; locked out", *locked_out]
    elsewhere = await house.connect("198.51.100.2")
    assert (await prove(elsewhere, "ann@shop.example", "secret")).startswith("334 ")


async def test_disabled_account_is_not_told_that_its_scram_proof_is_good(nursery: trio.Nursery) -> None:
    house = House(nursery, account("off@shop.example", disabled=True))
    visitor = await house.connect()
    assert [await prove(visitor, "off@shop.example", password) for password in ("wrong", "secret")] == [WRONG, WRONG]
    assert [failed.reason for failed in house.failed] == ["the account is disabled"] * 2


async def test_unknown_name_wrong_password_and_disabled_account_are_alike(
    nursery: trio.Nursery, hashed: list[str]
) -> None:
    house = House(nursery, account(), account("off@shop.example", disabled=True), failures_per_session=10)
    visitor = await house.connect()
    for name, password in (("nobody", "secret"), ("ann@shop.example", "wrong"), ("off@shop.example", "secret")):
        assert await visitor.say(plain(name, password)) == WRONG
    assert len(hashed) == 3  # one for each, whoever it is
    assert [(failed.account, failed.reason) for failed in house.failed] == [
        ("nobody", "no such account"),
        ("ann@shop.example", "wrong password"),
        ("off@shop.example", "the account is disabled"),
    ]
    assert not any("secret" in str(failed) for failed in house.failed)


async def test_session_ends_with_too_many_failures(nursery: trio.Nursery) -> None:
    house = House(nursery)
    visitor = await house.connect()
    assert await visitor.say(plain("ann@shop.example", "wrong")) == WRONG
    assert await visitor.say(b"AUTH PLAIN AAAA\r\n") == "501 5.5.2 malformed authentication exchange\n"
    assert await visitor.say(plain("ann@shop.example", "wrong")) == (
        "421 4.7.0 too many failed logins: closing the connection\n"
    )
    assert await visitor.read() == ""
    assert [failed.reason for failed in house.failed] == [
        "wrong password",
        "malformed: not a message of PLAIN",
        "wrong password",
    ]


@pytest.mark.parametrize(
    ("wire", "said", "why"),
    [
        (b"AUTH PLAIN AAAA\r\n", "501 5.5.2 malformed authentication exchange\n", "not a message of PLAIN"),
        (b"AUTH PLAIN !secret!\r\n", "501 5.5.2 cannot decode base64\n", "cannot decode base64"),
        (b"AUTH LOGIN\r\n!secret!\r\n", "334 VXNlcm5hbWU6\n501 5.5.2 cannot decode base64\n", "cannot decode base64"),
        (b"AUTH PLAIN\r\n" + b"A" * 12_300 + b"\r\n",
         "334 \n500 5.5.6 authentication exchange line is too long\n", "authentication exchange line is too long"),
        (b"AUTH PLAIN\r\nAA\nA\r\n", "334 \n500 5.5.2 bare LF in a command line: lines must end with CR LF\n",
         "bare LF in a command line: lines must end with CR LF"),
        (b"AUTH NTLM\r\n", "504 5.5.4 this authentication mechanism is not offered\n",
         "this authentication mechanism is not offered"),
        (b"AUTH SCRAM-SHA-256 AAAA\r\n", "501 5.5.2 malformed authentication exchange\n",
         "SCRAM: not a first message"),
    ],
    ids=["plain", "base64", "response", "endless", "lf", "mechanism", "scram"],
)  # fmt: skip
async def test_malformed_exchange_is_an_event_without_what_came(
    nursery: trio.Nursery, wire: bytes, said: str, why: str
) -> None:
    house = House(nursery)
    before = metrics.LOGINS["malformed"].value
    visitor = await house.connect(tls=TlsFacts("TLSv1.3", "X", "mx.test"))
    assert await visitor.say(wire) == said
    answer = said.splitlines()[-1]
    (failed,) = house.failed
    assert (failed.client_ip, failed.helo, failed.account) == ("192.0.2.7", "c.example", "")
    assert failed.reason == f"malformed: {why}"
    assert failed.reply.wire().decode() == f"{answer}\r\n"
    assert failed.tls == TlsFacts("TLSv1.3", "X", "mx.test")
    assert metrics.LOGINS["malformed"].value - before == 1
    assert await visitor.say(plain("ann@shop.example", "secret")) == IN


async def test_cancelled_exchange_is_no_failure(nursery: trio.Nursery) -> None:
    house = House(nursery)
    visitor = await house.connect()
    said = await visitor.say(b"AUTH LOGIN\r\n*\r\n")
    assert (said, house.failed) == ("334 VXNlcm5hbWU6\n501 5.7.0 authentication cancelled\n", [])


def test_tries_that_are_not_looked_at_do_not_fill_the_log(autojump_clock: trio.testing.MockClock) -> None:
    """No more of one address than failures lock it out, and no more at once than a worker can write."""
    recorded: list[FailedLogin] = []
    failed = FailedLogins(recorded.append, lambda _: "", per_ip=5, period_s=900.0)
    before = metrics.LOGINS["locked_out"].value

    async def attack() -> None:
        for number in range(50):
            failed.unheard(Client(f"2001:db8::{number:x}"), "ann", "locked_out", "locked out", login.LOCKED)
        assert len(recorded) == 5
        await trio.sleep(180)
        for _ in range(50):
            failed.unheard(Client("2001:db8::1"), "ann", "locked_out", "locked out", login.LOCKED)
        assert len(recorded) == 6
        for number in range(1000):
            failed.unheard(Client(f"10.0.{number >> 8}.{number & 255}"), "", "malformed", "malformed", login.MALFORMED)
        assert len(recorded) == 6 + 99
        failed.wrong(Client("2001:db8::1"), "ann", "wrong password", login.WRONG)
        assert len(recorded) == 6 + 99 + 1
        assert metrics.LOGINS["locked_out"].value - before == 100

    trio.run(attack, clock=autojump_clock)


async def test_address_is_locked_out_over_all_its_sessions(nursery: trio.Nursery, hashed: list[str]) -> None:
    house = House(nursery, per_ip=4)
    before = metrics.LOGINS["locked_out"].value
    for name in ("a", "b", "c", "d"):
        visitor = await house.connect("198.51.100.1")
        assert await visitor.say(plain(name, "secret")) == WRONG
    visitor = await house.connect("198.51.100.1")
    assert await visitor.say(plain("ann@shop.example", "secret")) == LOCKED
    assert await visitor.say(plain("nobody", "secret")) == LOCKED
    assert len(hashed) == 4
    assert [(failed.account, failed.reason) for failed in house.failed] == [
        ("a", "no such account"),
        ("b", "no such account"),
        ("c", "no such account"),
        ("d", "no such account; locked out"),
        ("ann@shop.example", "locked out: not looked at"),
        ("nobody", "locked out: not looked at"),
    ]
    assert metrics.LOGINS["locked_out"].value - before == 2
    elsewhere = await house.connect("198.51.100.2")
    assert await elsewhere.say(plain("ann@shop.example", "secret")) == IN


async def test_failures_are_answered_late(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    house = House(nursery, failure_delay_s=2.0)
    visitor = await house.connect()
    for delay_s in (2.0, 4.0):
        await visitor.socket.send(plain("nobody", "x"))
        while not house.failed:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(delay_s - 0.1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.move_on_after(0) as at_once:
            await visitor.read()
        assert at_once.cancelled_caught
        mock_clock.jump(0.2)
        assert await visitor.read() == WRONG
        house.failed.clear()


async def test_shutdown_does_not_wait_for_a_late_answer(nursery: trio.Nursery) -> None:
    house = House(nursery, failure_delay_s=1000.0)
    visitor = await house.connect()
    await visitor.socket.send(plain("nobody", "x"))
    while not house.failed:
        await trio.testing.wait_all_tasks_blocked(0.01)
    visitor.session.stop(now=False)
    assert await visitor.read() == "421 4.3.2 the service is shutting down, please try again\n"
    await visitor.ended.wait()


async def test_too_many_sessions_of_an_account(nursery: trio.Nursery) -> None:
    house = House(nursery, account(max_connections=2))
    visitors = [await house.connect() for _ in range(3)]
    said = [await visitor.say(plain("ann@shop.example", "secret")) for visitor in visitors]
    assert said == [IN, IN, "454 4.7.0 too many sessions of this account at once\n"]
    await visitors[0].say(b"QUIT\r\n")
    await visitors[0].ended.wait()
    assert await visitors[2].say(plain("ann@shop.example", "secret")) == IN


async def test_rates_of_recipients(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    house = House(nursery, account(recipients_per_minute=2, recipients_per_hour=3))
    one, two = await house.connect(), await house.connect()
    for visitor in (one, two):
        await visitor.say(plain("ann@shop.example", "secret"))
        await visitor.say(b"MAIL FROM:<ann@shop.example>\r\n")
    assert await one.say(b"RCPT TO:<a@x.example>\r\nRCPT TO:<b@x.example>\r\n") == RCPT_OK * 2
    assert await two.say(b"RCPT TO:<c@x.example>\r\n") == (
        "450 4.7.1 too many recipients of this account; try again in 30 s\n"
    )
    mock_clock.jump(31)
    assert await two.say(b"RCPT TO:<c@x.example>\r\n") == RCPT_OK
    mock_clock.jump(60)
    assert (await two.say(b"RCPT TO:<d@x.example>\r\n")).startswith("450 4.7.1 too many recipients of this account; ")
    refusal = house.refused[-1]
    assert (refusal.recipient, refusal.account, refusal.tenant) == ("d@x.example", "ann@shop.example", "shop")


async def test_rates_of_an_account_are_not_forgotten_however_many_others_there_are(nursery: trio.Nursery) -> None:
    count = 7000
    limits = {"recipients_per_minute": 9, "recipients_per_hour": 9, "recipients_per_day": 1}
    keys = config.Secret("")
    house = House(nursery, *(account(f"a{i}@shop.example", scram=keys, **limits) for i in range(count)))
    logins = house.services.logins
    assert logins is not None
    usable = [logins.accounts.usable(f"a{i}@shop.example") for i in range(count)]
    assert [logins.take_recipient(found, 0.0) for found in usable if found] == [0.0] * count
    assert {round(logins.take_recipient(found, 1.0)) for found in usable if found} == {86_399}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (b"MAIL FROM:<bob@shop.example>", "550 5.7.1 this account may not use this reverse-path\n"),
        (b"MAIL FROM:<ANN@SHOP.EXAMPLE>", OK),
        (b"MAIL FROM:<>", OK),
        (b"MAIL FROM:<ann@shop.example> SIZE=5001", TOO_LARGE),
        (b"MAIL FROM:<ann@shop.example> SIZE=5000", OK),
    ],
)
async def test_what_an_account_may_say_at_mail(nursery: trio.Nursery, command: bytes, said: str) -> None:
    house = House(nursery, account(max_message_bytes=5000))
    ann = await house.connect()
    await ann.say(plain("ann@shop.example", "secret"))
    assert await ann.say(command + b"\r\n") == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"From: bob@bank.example\r\n\r\nx", "550 5.7.1 this account may not use this address in From\n"),
        (b"Subject: x\r\n\r\nx", "550 5.7.1 there has to be one From field that is well formed\n"),
        (b"x", "550 5.7.1 there has to be one From field that is well formed\n"),
        (b"From: ann@shop.example\r\n\r\n" + b"x" * 5000, TOO_LARGE),
    ],
)
async def test_refused_content_is_not_kept(nursery: trio.Nursery, content: bytes, said: str) -> None:
    house = House(nursery, account(max_message_bytes=5000))
    ann = await house.connect()
    await ann.say(plain("ann@shop.example", "secret"))
    assert await ann.submit(content) == said
    assert house.spool.kept == []
    assert all(message.abandoned for message in house.spool.messages)
    assert [(refusal.stage, refusal.sender) for refusal in house.refused] == [("final_dot", "ann@shop.example")]
    assert (await ann.submit(b"From: ann@shop.example\r\n\r\nx")).startswith("250 2.0.0 Ok: queued as ")


async def test_account_that_was_taken_away_gets_no_further(nursery: trio.Nursery) -> None:
    house = House(nursery)
    ann = await house.connect()
    await ann.say(plain("ann@shop.example", "secret"))
    await ann.submit(b"From: ann@shop.example\r\n\r\nx")
    house.services.logins.accounts = Accounts([account(disabled=True)], None)  # type: ignore[union-attr]
    assert await ann.say(b"MAIL FROM:<ann@shop.example>\r\n") == "421 4.7.0 this account may not be used any more\n"
    assert await ann.read() == ""


async def test_too_many_passwords_at_once(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(nursery)
    monkeypatch.setattr(house.accounts, "_waiting", 1000)
    visitor = await house.connect()
    assert await visitor.say(plain("ann@shop.example", "secret")) == (
        "454 4.7.0 too many logins at once, please try again later\n"
    )
    reason = "too many logins at once: not looked at"
    assert house.failed == [
        FailedLogin("192.0.2.7", "c.example", "ann@shop.example", reason, login.BUSY, tenant="shop")
    ]


async def test_tenants_of_two_accounts_do_not_mix(nursery: trio.Nursery) -> None:
    house = House(nursery, account(), account("bob@mill.example", tenant="mill"))
    ann, bob = await house.connect(), await house.connect()
    await ann.say(plain("ann@shop.example", "secret"))
    await bob.say(plain("bob@mill.example", "secret"))
    assert (await bob.say(b"MAIL FROM:<ann@shop.example>\r\n")).startswith("550 5.7.1 ")
    await bob.submit(b"From: bob@mill.example\r\n\r\n", b"bob@mill.example")
    await ann.submit(b"From: ann@shop.example\r\n\r\n")
    told = [message.facts for message in house.spool.kept]
    assert [(facts["tenant"], facts["account"]) for facts in told if facts] == [
        ("mill", "bob@mill.example"),
        ("shop", "ann@shop.example"),
    ]
