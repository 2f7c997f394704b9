"""Hooks of the user's own in a server that runs: the example of the manual, files that break, what must not happen."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.command import command
from tests.system.peers import RunSwaks, StartSink
from tests.system.process import wait_until
from tests.system.server import Postroika

MANUAL = Path(__file__).parents[2] / "docs/hooks.md"
CONFIG = '[relay]\nnetworks = ["192.0.2.0/24"]\ndomains = ["shop.test"]\n[policy]\nhooks = "hooks.py"\n'
HEAD = "from postroika.hooks import *\n"
BODY = b"Subject: x\r\n\r\nx\r\n"


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[str], Postroika]:
    """A server that is not started yet, with that hooks.py."""

    def prepare(text: str, more: str = "") -> Postroika:
        server = Postroika(tmp_path, CONFIG + more, workers=1)
        write(server, text)
        return server

    return prepare


@pytest.fixture
def started(prepared: Callable[..., Postroika]) -> Iterator[Callable[..., Postroika]]:
    with ExitStack() as stack:

        def start(text: str, more: str = "") -> Postroika:
            return stack.enter_context(prepared(text, more))

        yield start


def write(server: Postroika, text: str) -> None:
    file = server.path / "hooks.py"
    file.write_text(text)
    file.chmod(0o644)


def example() -> str:
    """The one in the manual."""
    found = re.search(r"<!-- A test runs this file: .*? -->\n\n```python\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_example_of_the_manual(started: Callable[..., Postroika], smtp_sink: StartSink, swaks: RunSwaks) -> None:
    sink = smtp_sink(dump=True)
    server = started(example(), f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{sink.address}"\n')
    address = f"127.0.0.1:{server.port}"
    assert "TOML" not in server.run("check")
    good = swaks(address, to="customer-1@shop.test")
    assert good.returncode == 0, good.text
    (message,) = sink.wait_for(1)
    assert message.recipients == ("customer-1@shop.test",)
    unknown = swaks(address, to="stranger@shop.test")
    assert (unknown.returncode, unknown.replies[-2]) == (24, "550 5.1.1 stranger@shop.test is no customer")
    spam = swaks(address, "--header", "Subject: MAKE MONEY FAST", to="customer-1@shop.test")
    assert (spam.returncode, spam.replies[-2]) == (26, "550 5.7.1 no, thank you")
    with server.dialogue() as client:
        said = client.say("MAIL FROM:<a@b.test> SIZE=20000000")
        assert said == "552 5.3.4 too large for those who have not logged in"
    stages = [event["reply"]["stage"] for event in server.wait_for_events(3, "rejected")]
    assert stages == ["rcpt", "final_dot", "mail"]
    assert server.metrics()['postroika_policy_refusals_total{check="hooks"}'] == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("async def mail(client, mail)\n    pass\n", "hooks.py:1: expected ':'"),
        ("import nowhere_to_be_found\n", "hooks.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (f"{HEAD}async def rcpt(client): pass\n", "hooks.py: rcpt has to take (client, mail, recipient)"),
        ("import os\nos._exit(0)\n", None),
    ],
)
def test_broken_file_refuses_the_start_and_is_named(
    prepared: Callable[..., Postroika], text: str, told: str | None
) -> None:
    server = prepared(text)
    if told is None:  # nobody can tell such a file from a good one, but it harms nobody that tries it
        assert command(server, "check").code == 0
        return
    for verb in ("check", "serve"):
        done = command(server, verb)
        assert done.code == os.EX_CONFIG, done
        assert told in done.err
        assert "Traceback" not in done.err
    assert not server.event_log.exists()


def test_file_that_others_may_write_refuses_the_start(prepared: Callable[..., Postroika]) -> None:
    server = prepared(f"{HEAD}async def mail(client, mail): pass\n")
    (server.path / "hooks.py").chmod(0o666)
    for verb in ("check", "serve"):
        done = command(server, verb)
        assert (done.code, "hooks.py: may be written by others (mode 0666): chmod go-w" in done.err) == (78, True)


def test_sighup_takes_a_good_file_and_leaves_a_broken_one(started: Callable[..., Postroika]) -> None:
    server = started(f"{HEAD}async def mail(client, mail): return reject('first')\n")

    def says() -> str:
        with server.dialogue() as client:
            return client.say("MAIL FROM:<a@b.test>")

    assert says() == "550 5.7.1 first"
    write(server, f"{HEAD}async def mail(client, mail): return reject('second'\n")
    server.process.signal(signal.SIGHUP)
    wait_until(lambda: "the hooks stay as they were" in server.output(), "the complaint", 20)
    assert "hooks.py:2: '(' was never closed; the hooks stay as they were" in server.output()
    assert says() == "550 5.7.1 first"
    write(server, f"{HEAD}async def mail(client, mail): return defer('third')\n")
    server.process.signal(signal.SIGHUP)
    wait_until(lambda: says() == "451 4.7.1 third", "the third", 20)


def test_worker_that_is_started_again_with_a_broken_file_defers(started: Callable[..., Postroika]) -> None:
    server = started(f"{HEAD}async def rcpt(client, mail, recipient): return None\n")
    write(server, "1 / 0\n")
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)

    def says() -> str:
        try:
            with server.dialogue() as client:
                return client.say("MAIL FROM:<a@b.test>")
        except OSError:
            return ""

    wait_until(lambda: says() == "451 4.3.5 the checks cannot be made, please try again later", "a new worker", 30)
    assert "hooks.py:1: ZeroDivisionError: division by zero; all mail is deferred" in server.output()
    write(server, f"{HEAD}async def rcpt(client, mail, recipient): return None\n")
    server.process.signal(signal.SIGHUP)
    wait_until(lambda: says() == "250 2.1.0 Ok", "the mended file", 20)


NASTY = """
import time
import trio

async def mail(client, mail):
    local = mail.sender.partition("@")[0]
    if local == "raise":
        raise RuntimeError("hidden line\\n2026-01-01 INFO forged \\x1b[2J")
    if local == "exit":
        raise SystemExit(1)
    if local == "type":
        return 550
    if local == "inject":
        return reject("no\\r\\n250 2.1.0 Ok\\r\\nQUIT")
    if local == "hang":
        await trio.sleep_forever()
    if local == "block":
        time.sleep(1.2)
    if local == "thread":
        await trio.to_thread.run_sync(time.sleep, 5)
    return None
"""


def test_nothing_that_a_hook_does_ends_a_session(started: Callable[..., Postroika]) -> None:
    server = started(HEAD + NASTY, "[limits]\npolicy_timeout_s = 1\n")
    failed = "451 4.3.0 a check failed, please try again later"
    late = "451 4.7.1 a check took too long, please try again later"
    with server.dialogue() as client:
        for local, said in (
            ("raise", failed),
            ("exit", failed),
            ("type", failed),
            ("inject", "550 5.7.1 no  250 2.1.0 Ok  QUIT"),
            ("hang", late),
            ("block", late),
            ("thread", late),
        ):
            assert (local, client.say(f"MAIL FROM:<{local}@b.test>")) == (local, said)
            assert client.say("NOOP") == "250 2.0.0 Ok"
        assert client.message("good@b.test", ["you@shop.test"], BODY).startswith("250 2.0.0 ")
    log = server.output()
    assert re.search(r"ERROR the hook mail has failed \(client 127\.0\.0\.1\)\n    Traceback \(most recent", log)
    assert re.search(r'\n      File "\S*/hooks\.py", line 9, in mail\n', log)
    assert "the hook mail has returned int, not Verdict or None (client 127.0.0.1)" in log
    assert "the checks at mail of 127.0.0.1 took longer than 1 s" in log
    assert "\n2026-01-01 INFO forged" not in log
    assert "\x1b" not in log
    figures = server.metrics()
    assert (figures["postroika_hook_failures_total"], figures["postroika_policy_timeouts_total"]) == (3, 3)
    replies = [event["reply"]["text"] for event in server.wait_for_events(7, "rejected")]
    assert replies[3] == "no  250 2.1.0 Ok  QUIT"
