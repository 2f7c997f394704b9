"""policy.blocklists and policy.sender_domain, with answers of the DNS that the test gives."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

import pytest
import trio
import trio.testing

from postroika import metrics
from postroika.config import Blocklist
from postroika.mail.reply import Reply, reply
from postroika.policy.blocklists import BROKEN_REST_S, REST_S, Blocklists, reversed_address
from postroika.policy.names import Found
from postroika.policy.pipeline import Client
from postroika.policy.sender_domain import NO_DOMAIN, NO_HOST, NULL_MX, UNKNOWN, SenderDomain
from postroika.policy.turns import AT_ONCE
from postroika.smtp.server_events import Mail

NOT_THERE = Found(exists=False)
NO_DATA = Found()
SILENT = Found(certain=False)
NOT_ASKED = Found(certain=False, asked=False)
MAIL = Mail("someone@elsewhere.example")


class FakeNames:
    """The DNS: what is not said is not there. Each answer takes `delay_s`."""

    def __init__(self, answers: dict[str, Found] | None = None, delay_s: float = 0.0) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []
        self.delay_s = delay_s
        self.at_once = self.most_at_once = 0

    async def _answer(self, kind: str, name: str) -> Found:
        self.asked.append(f"{kind} {name}")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.delay_s)
        finally:
            self.at_once -= 1
        return self.answers.get(f"{kind} {name}", self.answers.get(name, NOT_THERE))

    async def ipv4(self, name: str) -> Found:
        return await self._answer("A", name)

    async def ipv6(self, name: str) -> Found:
        return await self._answer("AAAA", name)

    async def mail_hosts(self, name: str) -> Found:
        return await self._answer("MX", name)


async def told(verdict: Awaitable[Reply | None] | Reply | None) -> Reply | None:
    return verdict if verdict is None or isinstance(verdict, Reply) else await verdict


def lists(names: FakeNames, *zones: str, **more: Any) -> Blocklists:
    return Blocklists([Blocklist(zone=zone, **more) for zone in zones], names)


def hit(*records: str) -> Found:
    return Found(records)


@pytest.mark.parametrize(
    ("ip", "turned"),
    [
        ("192.0.2.99", "99.2.0.192"),
        ("127.0.0.2", "2.0.0.127"),
        # The example of RFC 5782 §2.4.
        ("2001:db8:1:2:3:4:567:89ab", "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2"),
        ("::1", "1" + ".0" * 31),
    ],
)
def test_addresses_are_turned_around(ip: str, turned: str) -> None:
    assert reversed_address(ip) == turned


async def test_listed_client_is_told_by_the_first_list_in_order() -> None:
    names = FakeNames({"2.2.0.192.b.example": hit("127.0.0.2"), "2.2.0.192.c.example": hit("127.0.0.4")})
    check = lists(names, "a.example", "b.example", "c.example")
    client = Client("192.0.2.2")
    refusal = reply(550, "5.7.1", "192.0.2.2 is listed at b.example")
    assert await told(check(client, MAIL)) == refusal
    assert sorted(names.asked) == [
        "A 1.0.0.127.b.example", "A 1.0.0.127.c.example", "A 2.2.0.192.a.example", "A 2.2.0.192.b.example",
        "A 2.2.0.192.c.example",
    ]  # fmt: skip
    assert check(client, MAIL) == refusal  # without asking
    assert await told(check(Client("192.0.2.2"), None)) == reply(554, "5.7.1", "192.0.2.2 is listed at b.example")
    assert await told(check(Client("192.0.2.3"), MAIL)) is None


async def test_ipv6_client_is_listed() -> None:
    names = FakeNames({f"{reversed_address('2001:db8::5')}.a.example": hit("127.0.0.2")})
    assert await told(lists(names, "a.example")(Client("2001:db8::5"), MAIL)) == reply(
        550, "5.7.1", "2001:db8::5 is listed at a.example"
    )


async def test_a_client_is_asked_about_once_a_session() -> None:
    names = FakeNames()
    check = lists(names, "a.example")
    client = Client("192.0.2.2")
    assert [await told(check(client, MAIL)) for _ in range(3)] == [None] * 3
    assert names.asked == ["A 2.2.0.192.a.example"]
    client.ip = "192.0.2.3"
    assert await told(check(client, MAIL)) is None
    assert names.asked == ["A 2.2.0.192.a.example", "A 3.2.0.192.a.example"]


async def test_lists_are_asked_at_once(autojump_clock: trio.testing.MockClock) -> None:
    names = FakeNames(delay_s=3.0)
    assert await told(lists(names, "a.example", "b.example", "c.example")(Client("192.0.2.2"), MAIL)) is None
    assert trio.current_time() == pytest.approx(3.0)


def test_accounts_are_not_looked_up() -> None:
    names = FakeNames()
    assert lists(names, "a.example")(Client("192.0.2.2", account="ann"), MAIL) is None
    assert names.asked == []


@pytest.mark.parametrize(
    ("answers", "records", "listed"),
    [
        (("127.0.0.0/24",), ("127.0.0.10",), True),
        (("127.0.0.2", "127.0.0.4"), ("127.0.0.4",), True),
        (("127.0.0.2",), ("127.0.0.10", "127.0.0.2"), True),
        (("127.0.0.2",), ("127.0.0.10",), False),
        (("127.0.0.0/24",), ("127.0.1.2",), False),
        (("127.0.1.0/24",), ("127.0.1.2",), True),
    ],
)
async def test_only_some_answers_count(answers: tuple[str, ...], records: tuple[str, ...], listed: bool) -> None:
    names = FakeNames({"2.2.0.192.a.example": hit(*records)})
    verdict = await told(lists(names, "a.example", answers=answers)(Client("192.0.2.2"), MAIL))
    assert (verdict is not None) == listed


async def test_own_words() -> None:
    names = FakeNames({"2.2.0.192.a.example": hit("127.0.0.2")})
    check = lists(names, "a.example", reply="go to https://{zone}/?{ip} {and} ask")
    assert await told(check(Client("192.0.2.2"), MAIL)) == reply(
        550, "5.7.1", "go to https://a.example/?192.0.2.2 {and} ask"
    )


async def test_list_that_does_not_answer_blocks_nobody_and_is_left_alone(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    names = FakeNames({f"{i}.2.0.192.a.example": SILENT for i in range(100)}, delay_s=1.0)
    check = lists(names, "a.example")
    for i in range(10):
        assert await told(check(Client(f"192.0.2.{i}"), MAIL)) is None
    assert len(names.asked) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "the block list a.example is left alone for 60 s: it does not answer"
    ]
    names.answers = {"9.2.0.192.a.example": hit("127.0.0.2")}
    await trio.sleep(REST_S - 1)
    assert await told(check(Client("192.0.2.9"), MAIL)) is None
    await trio.sleep(1)
    assert await told(check(Client("192.0.2.9"), MAIL)) is not None


async def test_list_that_we_could_not_ask_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    names = FakeNames({f"{i}.2.0.192.a.example": NOT_ASKED for i in range(10)})
    names.answers["10.2.0.192.a.example"] = hit("127.0.0.2")
    check = lists(names, "a.example")
    failures = metrics.BLOCKLIST_FAILURES.value
    for i in range(10):
        assert await told(check(Client(f"192.0.2.{i}"), MAIL)) is None
    assert await told(check(Client("192.0.2.10"), MAIL)) is not None
    assert (metrics.BLOCKLIST_FAILURES.value - failures, caplog.messages) == (0, [])


async def test_one_client_has_few_looked_up_at_once(autojump_clock: trio.testing.MockClock) -> None:
    names = FakeNames(delay_s=1.0)
    check = lists(names, "a.example", "b.example")
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for i in range(2 * AT_ONCE):
            nursery.start_soon(told, check(Client(f"2001:db8::{i}"), MAIL))
        await trio.testing.wait_all_tasks_blocked()
        assert await told(check(Client("192.0.2.1"), MAIL)) is None
        assert trio.current_time() - begun == pytest.approx(1.0)
    assert trio.current_time() - begun == pytest.approx(2.0)
    assert names.most_at_once == 2 * AT_ONCE + 2
    assert len(names.asked) == 2 * (2 * AT_ONCE + 1)


async def test_an_answer_in_between_counts_failures_anew() -> None:
    names = FakeNames()
    check = lists(names, "a.example")
    for i in range(20):
        names.answers = {} if i % 3 == 2 else {f"{i}.2.0.192.a.example": SILENT}
        assert await told(check(Client(f"192.0.2.{i}"), MAIL)) is None
    assert len(names.asked) == 20


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (
            {"2.2.0.192.a.example": hit("127.0.0.2"), "1.0.0.127.a.example": hit("127.0.0.2")},
            "it lists 127.0.0.1, so it lists everybody",
        ),
        ({"2.2.0.192.a.example": hit("127.255.255.254")}, "it answers 127.255.255.254, which lists nobody"),
        ({"2.2.0.192.a.example": hit("203.0.113.80")}, "it answers 203.0.113.80, which lists nobody"),
    ],
)  # fmt: skip
async def test_list_that_has_gone_wrong_blocks_nobody(
    answers: dict[str, Found], why: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    names = FakeNames(answers)
    check = lists(names, "a.example")
    for _ in range(3):
        assert await told(check(Client("192.0.2.2"), MAIL)) is None
    asked = len(names.asked)
    assert asked <= 2
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"the block list a.example is left alone for 600 s: {why}")
    ]
    await trio.sleep(BROKEN_REST_S)
    assert await told(check(Client("192.0.2.2"), MAIL)) is None
    assert len(names.asked) == 2 * asked


async def test_one_list_that_fails_does_not_silence_the_others() -> None:
    names = FakeNames({"2.2.0.192.a.example": SILENT, "2.2.0.192.b.example": hit("127.0.0.2")})
    assert await told(lists(names, "a.example", "b.example")(Client("192.0.2.2"), MAIL)) is not None


async def test_when_it_cannot_be_known_whether_a_list_is_sane_it_blocks_nobody() -> None:
    names = FakeNames({"2.2.0.192.a.example": hit("127.0.0.2"), "1.0.0.127.a.example": SILENT})
    assert await told(lists(names, "a.example")(Client("192.0.2.2"), MAIL)) is None


# ---- the domain of the reverse-path


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ({"MX": hit("mx.elsewhere.example")}, None),
        ({"MX": hit("", "mx.elsewhere.example")}, None),
        ({"MX": hit("")}, NULL_MX),
        ({"MX": NOT_THERE}, NO_DOMAIN),
        ({"MX": SILENT}, UNKNOWN),
        ({"MX": SILENT, "A": hit("192.0.2.1")}, UNKNOWN),
        ({"MX": NO_DATA, "A": hit("192.0.2.1")}, None),
        ({"MX": NO_DATA, "A": NO_DATA, "AAAA": hit("2001:db8::1")}, None),
        ({"MX": NO_DATA, "A": SILENT, "AAAA": hit("2001:db8::1")}, None),
        ({"MX": NO_DATA, "A": NO_DATA, "AAAA": NO_DATA}, NO_HOST),
        ({"MX": NO_DATA, "A": SILENT, "AAAA": NO_DATA}, UNKNOWN),
        ({"MX": NO_DATA, "A": NO_DATA, "AAAA": SILENT}, UNKNOWN),
    ],
)
async def test_domain_of_the_reverse_path(answers: dict[str, Found], verdict: Reply | None) -> None:
    names = FakeNames({f"{kind} elsewhere.example": found for kind, found in answers.items()})
    assert await told(SenderDomain(names)(Client("192.0.2.1"), MAIL)) == verdict


@pytest.mark.parametrize("address", ["", "postmaster", "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]"])
def test_reverse_paths_that_have_no_domain_pass(address: str) -> None:
    names = FakeNames()
    assert SenderDomain(names)(Client("192.0.2.1"), Mail(address)) is None
    assert SenderDomain(names)(Client("192.0.2.1", account="ann"), MAIL) is None
    assert names.asked == []


@pytest.mark.parametrize(("domain", "asked"), [("bücher.example", "xn--bcher-kva.example"), ("a..example", None)])
async def test_domains_are_asked_for_as_a_labels(domain: str, asked: str | None) -> None:
    names = FakeNames()
    assert await told(SenderDomain(names)(Client("192.0.2.1"), Mail(f"a@{domain}"))) == NO_DOMAIN
    assert names.asked == ([f"MX {asked}"] if asked else [])


async def test_one_client_has_few_domains_looked_up_at_once(autojump_clock: trio.testing.MockClock) -> None:
    names = FakeNames(delay_s=1.0)
    check = SenderDomain(names)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for i in range(3 * AT_ONCE):
            nursery.start_soon(told, check(Client("192.0.2.1"), Mail(f"a@{i}.example")))
        await trio.testing.wait_all_tasks_blocked()
        assert names.at_once == AT_ONCE
        assert await told(check(Client("192.0.2.2"), MAIL)) == NO_DOMAIN
        assert trio.current_time() - begun == pytest.approx(1.0)
    assert trio.current_time() - begun == pytest.approx(3.0)
    assert names.most_at_once == AT_ONCE + 1
