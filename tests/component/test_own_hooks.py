"""policy.own_hooks in a session: what the user's functions are told, and what becomes of what they say and do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from postroika.config import Config, Policy, Relay
from postroika.errors import ConfigError
from postroika.mail.reply import Reply, reply
from postroika.policy import own_hooks
from postroika.policy.checks import Checks
from postroika.policy.names import Found
from postroika.policy.own_hooks import BROKEN, FAILED, OwnHooks
from postroika.policy.pipeline import STAGES, TOO_SLOW, Client, Pipeline
from postroika.smtp.server_events import Mail
from postroika.tls.facts import TlsFacts
from tests.component.smtp_client import Inbound

HEAD = "import threading, time, trio\nfrom postroika.hooks import *\n"
MAIL = Mail("a@b.example")


class NoNames:
    """No DNS."""

    async def ipv4(self, name: str) -> Found:
        raise NotImplementedError

    ipv6 = mail_hosts = ipv4


class House:
    """Hooks in a file, and sessions that they judge."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str) -> None:
        self.path.write_text(HEAD + text)

    def checks(self, text: str) -> Checks:
        self.write(text)
        config = Config(relay=Relay(networks=("10.0.0.0/8",)), policy=Policy(hooks=str(self.path)))
        checks = Checks(config, NoNames())
        assert checks.hooks is not None
        checks.hooks.load()
        return checks

    def pipeline(self, text: str) -> Pipeline:
        return self.checks(text).pipeline


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "hooks.py")


ALL = """\
told = []
async def connect(client): told.append(("connect", client))
async def ehlo(client, name): told.append(("ehlo", client.helo, name))
async def mail(client, mail): told.append(("mail", client.helo, mail))
async def rcpt(client, mail, recipient): told.append(("rcpt", mail.sender, recipient))
async def data(client, envelope): told.append(("data", envelope))
async def message(client, message):
    await trio.sleep(1)
    told.append(("message", message.envelope, message.header, message.size_bytes, message.parsed()["Subject"]))
"""


def told() -> list[Any]:
    import sys

    found: list[Any] = sys.modules["postroika_hooks"].told
    return found


async def test_facts_of_each_stage(house: House, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    from postroika.hooks import Client as SeenClient
    from postroika.hooks import Envelope, Recipient
    from postroika.hooks import Mail as SeenMail

    inbound = Inbound(nursery, pipeline=house.pipeline(ALL), ip="10.0.0.9")
    await inbound.greet()
    await inbound.say(b"MAIL FROM:<a@b.example> SIZE=1000 ENVID=Q1\r\n")
    await inbound.say(b"RCPT TO:<c@d.example> ORCPT=rfc822;x@y.example\r\nRCPT TO:<e@f.example>\r\n")
    await inbound.say(b"DATA\r\n")
    assert (await inbound.say(b"Subject: hello\r\nX: y\r\n\r\nbody\r\n.\r\n")).startswith("250 2.0.0 ")
    mail = SeenMail("a@b.example", 1000, False, "Q1")
    first, second = Recipient("c@d.example", "rfc822;x@y.example"), Recipient("e@f.example")
    envelope = Envelope(mail, (first, second))
    assert told() == [
        ("connect", SeenClient("10.0.0.9", trusted=True)),
        ("ehlo", "", "client.example"),
        ("mail", "client.example", mail),
        ("rcpt", "a@b.example", first),
        ("rcpt", "a@b.example", second),
        ("data", envelope),
        ("message", envelope, b"Subject: hello\r\nX: y\r\n", 30, "hello"),
    ]
    assert [message.body.endswith(b"Subject: hello\r\nX: y\r\n\r\nbody\r\n") for message in inbound.spool.kept] == [
        True
    ]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("None", None),
        ("accept()", reply(250, "2.1.0", "Ok")),
        ("reject('no')", reply(550, "5.7.1", "no")),
        ("reject('no', code=554, enhanced='5.1.1')", reply(554, "5.1.1", "no")),
        ("reject('no\\r\\n250 2.1.0 Ok')", reply(550, "5.7.1", "no  250 2.1.0 Ok")),
        ("defer('later')", reply(451, "4.7.1", "later")),
        ("Verdict(5)", reply(550, "5.7.1", "")),
        ("Verdict(4, enhanced='4.3.2')", reply(451, "4.3.2", "")),
    ],
)
async def test_verdicts_become_replies(house: House, verdict: str, expected: Reply | None) -> None:
    pipeline = house.pipeline(f"async def mail(client, mail): return {verdict}\n")
    assert await pipeline.judge("mail", Client("192.0.2.1"), MAIL) == expected
    assert expected is None or expected.wire().count(b"\r\n") == 1


@pytest.mark.parametrize(
    ("verdict", "said"), [("reject('no')", "554 5.7.1 no\n"), ("defer('later')", "421 4.7.1 later\n")]
)
async def test_refused_at_once(house: House, nursery: trio.Nursery, verdict: str, said: str) -> None:
    inbound = Inbound(nursery, pipeline=house.pipeline(f"async def connect(client): return {verdict}\n"))
    assert await inbound.read() == said
    await inbound.ended.wait()
    assert [(event.stage, event.reply.code) for event in inbound.events] == [("connect", int(said[:3]))]


STAGES_SAID = {
    "ehlo(client, name)": ("550 5.7.1 no", "ehlo"),
    "mail(client, mail)": ("550 5.7.1 no", "mail"),
    "rcpt(client, mail, recipient)": ("550 5.7.1 no", "rcpt"),
    "data(client, envelope)": ("550 5.7.1 no", "data"),
    "message(client, message)": ("550 5.7.1 no", "final_dot"),
}
DIALOGUE = [
    b"EHLO me.example\r\n", b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n", b"DATA\r\n",
    b"X: y\r\n\r\nz\r\n.\r\n",
]  # fmt: skip


@pytest.mark.parametrize("function", list(STAGES_SAID))
async def test_refused_at_each_stage(house: House, nursery: trio.Nursery, function: str) -> None:
    said, stage = STAGES_SAID[function]
    inbound = Inbound(nursery, pipeline=house.pipeline(f"async def {function}: return reject('no')\n"))
    await inbound.read()
    for command in DIALOGUE:
        answer = await inbound.say(command)
        if answer.startswith("5"):
            break
    assert answer == f"{said}\n"
    assert [(event.stage, event.reply) for event in inbound.events] == [(stage, reply(550, "5.7.1", "no"))]
    assert inbound.spool.kept == []
    assert all(message.abandoned for message in inbound.spool.messages)
    assert await inbound.say(b"NOOP\r\n") == "250 2.0.0 Ok\n"  # the session goes on


@pytest.mark.parametrize(
    ("body", "logged"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit", "SystemExit"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("await trio.lowlevel.checkpoint(); raise GeneratorExit", "GeneratorExit"),
        ("raise BaseExceptionGroup('odd', [GeneratorExit(), KeyError('inner')])", "KeyError: 'inner'"),
        (
            """
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept = error
    raise kept""",
            "Cancelled",
        ),
        (
            """
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept = error
    raise BaseExceptionGroup('odd', [kept])""",
            "Cancelled",
        ),
        ("return reject('x', code=250)", "ValueError"),
        ("import asyncio; await asyncio.sleep(1)", "RuntimeError"),
        (
            """
    async def fail(): raise KeyError('inner')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(trio.sleep_forever)""",
            "KeyError: 'inner'",
        ),
    ],
)
async def test_a_failure_defers_and_is_logged_with_its_traceback(
    house: House,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    body: str,
    logged: str,
) -> None:
    inbound = Inbound(nursery, pipeline=house.pipeline(f"async def mail(client, mail):\n    {body}\n"))
    await inbound.greet()
    for _ in range(2):
        assert await inbound.say(b"MAIL FROM:<a@b.example>\r\n") == "451 4.3.0 a check failed, please try again later\n"
    assert await inbound.say(b"NOOP\r\n") == "250 2.0.0 Ok\n"
    assert [record.getMessage() for record in caplog.records] == ["the hook mail has failed (client 10.0.0.1)"] * 2
    assert logged in caplog.text
    assert f'{house.path}", line ' in caplog.text
    assert [event.reply for event in inbound.events] == [FAILED] * 2


@pytest.mark.parametrize(
    ("value", "kind"),
    [("'no'", "str"), ("True", "bool"), ("(550, 'no')", "tuple"), ("b''", "bytes"), ("reject", "function")],
)
async def test_what_is_no_verdict_defers(house: House, caplog: pytest.LogCaptureFixture, value: str, kind: str) -> None:
    pipeline = house.pipeline(f"async def rcpt(client, mail, recipient): return {value}\n")
    client = Client("192.0.2.1", mail=MAIL)
    from postroika.smtp.server_events import Rcpt

    assert await pipeline.judge("rcpt", client, Rcpt("c@d.example", "c", "d.example")) == FAILED
    assert caplog.messages == [f"the hook rcpt has returned {kind}, not Verdict or None (client 192.0.2.1)"]


async def test_who_the_client_is(house: House) -> None:
    from postroika.hooks import Client as SeenClient

    client = Client(
        "192.0.2.1", 4321, "198.51.100.1", 2, helo="helo.example", account="ann", tenant="shop", proxy_ip="10.0.0.1",
        name="client.example", tls=TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", "", "card.example", verified=True),
    )  # fmt: skip
    pipeline = house.pipeline("told = []\nasync def mail(client, mail): told.append(client)\n")
    assert await pipeline.judge("mail", client, MAIL) is None
    assert told() == [
        SeenClient(
            "192.0.2.1", 4321, "198.51.100.1", 2, helo="helo.example", account="ann", tenant="shop",
            proxy_ip="10.0.0.1", name="client.example", tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
            certificate="card.example",
        )
    ]  # fmt: skip


async def test_a_failure_for_everybody_does_not_fill_the_log(
    house: House,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    pipeline = house.pipeline("async def mail(client, mail): 1 / 0\n")
    for _ in range(100):
        assert await pipeline.judge("mail", Client("192.0.2.1"), MAIL) == FAILED
    assert len(caplog.records) == 10
    await trio.sleep(60)
    assert await pipeline.judge("mail", Client("192.0.2.1"), MAIL) == FAILED
    assert len(caplog.records) == 11


@pytest.mark.parametrize(
    "body",
    [
        "await trio.sleep_forever()",
        "with trio.CancelScope(shield=True): await trio.sleep(1000)",
        """
    for _ in range(3):
        try:
            await trio.sleep_forever()
        except BaseException:
            pass
    return reject('too late')""",
    ],
)
async def test_what_takes_too_long_defers_whatever_it_does(
    house: House,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    body: str,
) -> None:
    inbound = Inbound(nursery, pipeline=house.pipeline(f"async def mail(client, mail):\n    {body}\n"))
    await inbound.greet()
    await inbound.send(b"MAIL FROM:<a@b.example>\r\n")
    with trio.fail_after(31):
        assert (await inbound.socket.recv(1000)).decode() == TOO_SLOW.wire().decode()
    assert trio.current_time() == pytest.approx(30, abs=0.5)
    assert caplog.messages == ["the checks at mail of 10.0.0.1 took longer than 30 s"]
    assert await inbound.say(b"NOOP\r\n") == "250 2.0.0 Ok\n"
    assert [event.reply for event in inbound.events] == [TOO_SLOW]


@pytest.mark.parametrize("error", ["GeneratorExit", "KeyboardInterrupt", "KeyError"])
async def test_what_fails_when_it_is_cancelled_is_logged(
    house: House,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    error: str,
) -> None:
    body = f"try: await trio.sleep_forever()\n    except BaseException: raise {error}"
    inbound = Inbound(nursery, pipeline=house.pipeline(f"async def mail(client, mail):\n    {body}\n"))
    await inbound.greet()
    await inbound.send(b"MAIL FROM:<a@b.example>\r\n")
    assert (await inbound.socket.recv(1000)).decode() == TOO_SLOW.wire().decode()
    assert await inbound.say(b"NOOP\r\n") == "250 2.0.0 Ok\n"
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(caplog.messages) == [
        "the checks at mail of 10.0.0.1 took longer than 30 s",
        "the hook mail has failed (client 10.0.0.1)",
    ]


async def test_a_thread_that_hangs_holds_up_no_session(
    house: House,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    inbound = Inbound(
        nursery,
        pipeline=house.pipeline(
            "gate = threading.Event()\nasync def mail(client, mail): await trio.to_thread.run_sync(gate.wait)\n"
        ),
    )
    await inbound.greet()
    import sys

    try:
        await inbound.send(b"MAIL FROM:<a@b.example>\r\n")
        assert (await inbound.socket.recv(1000)).decode() == TOO_SLOW.wire().decode()
    finally:
        sys.modules["postroika_hooks"].gate.set()


async def test_functions_that_never_end_are_bounded(
    house: House,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(own_hooks, "_MOST_RUNNING", 2)
    stubborn = "async def mail(client, mail):\n    with trio.CancelScope(shield=True): await trio.sleep(1000)\n"
    inbound = Inbound(nursery, pipeline=house.pipeline(stubborn))
    await inbound.greet()
    for expected in (TOO_SLOW, TOO_SLOW, FAILED):
        await inbound.send(b"MAIL FROM:<a@b.example>\r\n")
        assert (await inbound.socket.recv(1000)).decode() == expected.wire().decode()
    assert caplog.messages[-1] == "the hook mail is not asked: 2 hooks are running already (client 10.0.0.1)"


async def test_hook_is_cancelled_with_its_session(house: House, nursery: trio.Nursery) -> None:
    text = (
        "told = []\nasync def mail(client, mail):\n    try: await trio.sleep_forever()\n"
        "    finally: told.append('cancelled')\n"
    )
    inbound = Inbound(nursery, pipeline=house.pipeline(text))
    await inbound.greet()
    await inbound.send(b"MAIL FROM:<a@b.example>\r\n")
    await trio.testing.wait_all_tasks_blocked()
    inbound.session.stop(now=True)
    await inbound.ended.wait()
    assert told() == ["cancelled"]


async def test_message_is_answered_when_the_worker_stops_while_it_is_judged(
    house: House,
    nursery: trio.Nursery,
) -> None:
    inbound = Inbound(nursery, pipeline=house.pipeline("async def message(client, message): await trio.sleep(20)\n"))
    await inbound.greet()
    await inbound.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    await inbound.send(b"x\r\n.\r\n")
    await trio.testing.wait_all_tasks_blocked()
    inbound.session.stop(now=True)
    assert await inbound.read() == "421 4.3.2 the service is shutting down, please try again\n"
    assert inbound.spool.kept == []


async def test_spool_that_fails_is_told_before_anybody_is_asked(house: House, nursery: trio.Nursery) -> None:
    from postroika.errors import SpoolError

    inbound = Inbound(nursery, pipeline=house.pipeline("async def message(client, message): return reject('no')\n"))
    await inbound.greet()
    await inbound.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    inbound.spool.write_error = SpoolError("broken")
    assert (await inbound.say(b"x\r\n" * 30_000 + b".\r\n")).startswith("451 4.3.0 ")


# ---- files that change


async def test_new_file_counts_and_broken_one_does_not(house: House) -> None:
    checks = house.checks("async def mail(client, mail): return reject('old')\n")
    hooks, client = checks.hooks, Client("192.0.2.1")
    assert hooks is not None
    assert [stage for stage in STAGES if checks.pipeline.judges(stage)] == ["mail"]

    house.write("async def mail(client, mail) return None\n")
    with pytest.raises(ConfigError) as caught:
        await hooks.reload()
    assert str(caught.value) == f"{house.path}:3: expected ':'; the hooks stay as they were"
    house.path.chmod(0o666)
    with pytest.raises(ConfigError, match="may be written by others"):
        await hooks.reload()
    house.path.chmod(0o644)
    assert await checks.pipeline.judge("mail", client, MAIL) == reply(550, "5.7.1", "old")

    house.write("async def mail(client, mail): return reject('new')\nasync def ehlo(client, name): pass\n")
    await hooks.reload()
    assert await checks.pipeline.judge("mail", client, MAIL) == reply(550, "5.7.1", "new")
    assert [stage for stage in STAGES if checks.pipeline.judges(stage)] == ["helo", "mail"]
    house.path.unlink()
    with pytest.raises(ConfigError, match="cannot read it"):
        await hooks.reload()
    assert checks.pipeline.judges("helo")


async def test_file_that_has_not_changed_is_not_run_again(house: House) -> None:
    checks = house.checks("told = []\nasync def mail(client, mail): told.append(1)\n")
    assert checks.hooks is not None
    await checks.pipeline.judge("mail", Client("192.0.2.1"), MAIL)
    await checks.hooks.reload()
    await checks.pipeline.judge("mail", Client("192.0.2.1"), MAIL)
    assert told() == [1, 1]


async def test_worker_that_finds_a_broken_file_defers_until_it_is_mended(
    house: House,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checks = house.checks("async def mail(client, mail) return None\n")
    client = Client("192.0.2.1")
    assert caplog.messages == [
        f"{house.path}:3: expected ':'; all mail is deferred until it is mended and SIGHUP is sent"
    ]
    assert [stage for stage in STAGES if checks.pipeline.judges(stage)] == ["mail"]
    assert await checks.pipeline.judge("mail", client, MAIL) == BROKEN
    trusted = Client("10.0.0.1", trusted=True)
    assert await checks.pipeline.of(trusted).judge("mail", trusted, MAIL) == BROKEN
    house.write("async def rcpt(client, mail, recipient): return None\n")
    assert checks.hooks is not None
    await checks.hooks.reload()
    assert [stage for stage in STAGES if checks.pipeline.judges(stage)] == ["rcpt"]


async def test_function_that_is_gone_since_the_stage_began(house: House) -> None:
    house.write("async def mail(client, mail): return reject('old')\n")
    hooks = OwnHooks(str(house.path), lambda: None)
    hooks.load()
    (ask,) = hooks.at("mail")
    pending = ask(Client("192.0.2.1"), MAIL)
    house.write("async def ehlo(client, name): return None\n")
    await hooks.reload()
    assert pending is not None
    assert not isinstance(pending, Reply)
    assert await pending is None
