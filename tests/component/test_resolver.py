"""Look-ups against a DNS server in the same process: the four answers, the cache, deadlines, shared questions."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from postroika.config import Dns
from postroika.routing.mx import Mx
from postroika.routing.resolver import FAILURE_TTL_S, Answer, Resolver, Status
from postroika.tls.tlsa import Tlsa
from tests.component.name_server import NameServer

ZONE = """
shop.test. 300 IN MX 20 mx2.shop.test.
shop.test. 300 IN MX 10 MX1.shop.test.
mx1.shop.test. 300 IN A 192.0.2.1
mx1.shop.test. 300 IN AAAA 2001:db8::1
null.test. 300 IN MX 0 .
short.test. 5 IN A 192.0.2.5
zero.test. 0 IN A 192.0.2.6
alias.test. 60 IN CNAME Shop.test.
lost.test. 60 IN CNAME nowhere.test.
bare.test. 60 IN CNAME mx1.shop.test.
loop.test. 60 IN CNAME loop2.test.
loop2.test. 60 IN CNAME loop.test.
texts.test. 60 IN TXT "one" " and two"
texts.test. 60 IN TXT "\\255"
"""


def _resolver(server: NameServer, **settings: object) -> Resolver:
    return Resolver(Dns(servers=(server.address,), **settings))  # type: ignore[arg-type]


def _said(answer: Answer[str] | Answer[Mx]) -> tuple[Status, tuple[str | Mx, ...], str]:
    return answer.status, answer.records, answer.canonical


async def test_records_of_each_type() -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server)
        mx = (Mx(10, "mx1.shop.test"), Mx(20, "mx2.shop.test"))
        assert _said(await resolver.mx("Shop.test.")) == (Status.FOUND, mx, "shop.test")
        assert _said(await resolver.mx("null.test")) == (Status.FOUND, (Mx(0, ""),), "null.test")
        assert _said(await resolver.ipv4("mx1.shop.test")) == (Status.FOUND, ("192.0.2.1",), "mx1.shop.test")
        assert _said(await resolver.ipv6("mx1.shop.test")) == (Status.FOUND, ("2001:db8::1",), "mx1.shop.test")


async def test_texts_of_a_record_are_joined() -> None:
    async with NameServer(ZONE).serve() as server:
        answer = await _resolver(server).txt("texts.test")
        assert (answer.status, sorted(answer.records)) == (Status.FOUND, [b"one and two", b"\xff"])
        assert (await _resolver(server).txt("shop.test")).status is Status.NODATA


async def test_no_data_and_no_such_name_are_told_apart() -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server)
        assert _said(await resolver.mx("mx1.shop.test")) == (Status.NODATA, (), "mx1.shop.test")
        assert _said(await resolver.mx("nowhere.test")) == (Status.NXDOMAIN, (), "nowhere.test")


async def test_server_failure_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.fails.add("shop.test")
        answer = await _resolver(server).mx("shop.test")
        assert (answer.status, answer.detail) == (Status.FAILED, "SERVFAIL")


async def test_server_that_cannot_be_reached_says_so() -> None:
    answer = await Resolver(Dns(servers=("127.0.0.1:0",))).mx("shop.test")
    assert (answer.status, answer.detail) == (Status.FAILED, "[Errno 22] Invalid argument")


async def test_aliases_are_followed() -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server)
        assert (await resolver.mx("alias.test")).canonical == "shop.test"
        assert _said(await resolver.mx("lost.test")) == (Status.NXDOMAIN, (), "nowhere.test")
        assert _said(await resolver.mx("bare.test")) == (Status.NODATA, (), "mx1.shop.test")


async def test_aliases_are_followed_where_the_server_does_not() -> None:
    async with NameServer(ZONE).serve() as server:
        server.forgets_targets = True
        resolver = _resolver(server)
        assert _said(await resolver.ipv4("bare.test")) == (Status.FOUND, ("192.0.2.1",), "mx1.shop.test")
        answer = await resolver.ipv4("loop.test")
        assert (answer.status, answer.detail) == (Status.FAILED, "CNAME chain too long")


async def test_name_that_cannot_be_one_does_not_exist() -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server)
        for name in ("a..test", "x" * 64 + ".test", "a." * 130):
            assert (await resolver.mx(name)).status is Status.NXDOMAIN, name
        assert server.asked.total() == 0


async def test_answer_is_kept_for_its_ttl(mock_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server)
        for jump_s, asked in ((0.0, 1), (4.9, 1), (0.2, 2)):
            mock_clock.jump(jump_s)
            await resolver.ipv4("short.test")
            assert server.asked == {("short.test", "A"): asked}


async def test_ttl_is_capped_and_zero_is_not_kept(mock_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server, max_ttl_s=100.0)
        assert (await resolver.mx("shop.test")).expires_at == trio.current_time() + 100
        assert (await resolver.mx("alias.test")).expires_at == trio.current_time() + 60
        await resolver.ipv4("zero.test")
        await resolver.ipv4("zero.test")
        assert server.asked["zero.test", "A"] == 2


async def test_absence_is_kept_for_the_soa_minimum_and_no_longer_than_configured(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with NameServer(ZONE, soa_ttl_s=30).serve() as server:
        for configured_s, kept_s in ((60.0, 30.0), (10.0, 10.0), (0.0, 0.0)):
            resolver = _resolver(server, negative_ttl_s=configured_s)
            for name in ("nowhere.test", "mx1.shop.test"):
                assert (await resolver.mx(name)).expires_at == trio.current_time() + kept_s


async def test_failure_is_kept_for_a_few_seconds_only(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.fails.add("shop.test")
        resolver = _resolver(server)
        await resolver.mx("shop.test")
        await resolver.mx("shop.test")
        assert server.asked == {("shop.test", "MX"): 1}
        server.fails.clear()
        await trio.sleep(FAILURE_TTL_S)
        assert (await resolver.mx("shop.test")).status is Status.FOUND


async def test_what_was_not_found_is_asked_for_anew_when_it_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with NameServer(ZONE).serve() as server:
        server.fails.add("shop.test")
        resolver = _resolver(server)
        for name in ("shop.test", "nowhere.test", "mx1.shop.test", "null.test"):
            await resolver.mx(name)
        server.fails.clear()
        server.add("nowhere.test. 300 IN MX 10 mx1.shop.test.")
        resolver.forget_failures()
        assert (await resolver.mx("shop.test")).status is Status.FOUND
        assert (await resolver.mx("nowhere.test")).records == (Mx(10, "mx1.shop.test"),)
        await resolver.mx("mx1.shop.test")
        await resolver.mx("null.test")
        assert server.asked == {
            ("shop.test", "MX"): 2, ("nowhere.test", "MX"): 2, ("mx1.shop.test", "MX"): 2, ("null.test", "MX"): 1
        }  # fmt: skip


async def test_silent_server_costs_the_timeout_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.silent.add("shop.test")
        began = trio.current_time()
        answer = await _resolver(server, timeout_s=7.0).mx("shop.test")
        assert trio.current_time() - began == 7.0
        assert (answer.status, answer.detail) == (Status.FAILED, f"no answer within 7 s from {server.address}")
        assert server.asked["shop.test", "MX"] > 1


async def test_second_server_answers_for_a_failing_and_for_a_silent_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with NameServer(ZONE).serve() as bad, NameServer(ZONE).serve() as good:
        resolver = Resolver(Dns(servers=(bad.address, good.address)))
        bad.fails.add("shop.test")
        bad.silent.add("null.test")
        assert (await resolver.mx("shop.test")).status is Status.FOUND
        assert (await resolver.mx("null.test")).status is Status.FOUND


async def test_dead_first_server_costs_time_once(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as dead, NameServer(ZONE).serve() as good:
        dead.silent |= {"shop.test", "mx1.shop.test", "short.test"}
        resolver = Resolver(Dns(servers=(dead.address, good.address)))
        took_s = []
        for name in ("shop.test", "mx1.shop.test", "short.test"):
            began = trio.current_time()
            await resolver.ipv4(name)
            took_s.append(round(trio.current_time() - began, 2))
        assert took_s == [2.0, 0.0, 0.0]


# --- what DNSSEC vouches for


async def test_answer_is_secure_if_a_server_that_validates_says_so_of_the_whole_chain() -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server, validating=True)
        server.signed |= {"shop.test", "mx1.shop.test", "alias.test", "lost.test", "bare.test"}
        assert (await resolver.mx("shop.test")).secure
        assert (await resolver.mx("alias.test")).secure
        assert (await resolver.mx("mx1.shop.test")).secure  # nothing there, for sure
        assert not (await resolver.mx("lost.test")).secure  # the alias is signed, what it leads to is not
        assert not (await resolver.ipv4("short.test")).secure
        assert not (await resolver.mx("nowhere.test")).secure
        server.signed.add("nowhere.test")
        resolver.forget_failures()
        assert (await resolver.mx("nowhere.test")).secure
        assert (await resolver.mx("lost.test")).secure


async def test_nothing_is_secure_that_the_config_does_not_trust() -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed.add("test")
        assert not (await _resolver(server).mx("shop.test")).secure


async def test_chain_that_the_server_left_unfinished_is_secure_only_as_a_whole() -> None:
    async with NameServer(ZONE).serve() as server:
        server.forgets_targets = True
        server.signed |= {"bare.test", "mx1.shop.test"}
        assert (await _resolver(server, validating=True).ipv4("bare.test")).secure
        server.signed.remove("mx1.shop.test")
        assert not (await _resolver(server, validating=True).ipv4("bare.test")).secure
        server.signed = {"mx1.shop.test"}
        assert not (await _resolver(server, validating=True).ipv4("bare.test")).secure


async def test_failure_is_never_secure(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed.add("test")
        server.fails.add("shop.test")
        assert not (await _resolver(server, validating=True).mx("shop.test")).secure


async def test_tlsa_records_and_aliases() -> None:
    records = f"""
    _25._tcp.mx.test. 60 IN TLSA 3 1 1 {"ab" * 32}
    _25._tcp.mx.test. 60 IN TLSA 255 7 9 00
    _25._tcp.mx.test. 60 IN TLSA 3 1 1 00
    _26._tcp.mx.test. 60 IN CNAME _25._tcp.mx.test.
    """
    async with NameServer(records).serve() as server:
        resolver = _resolver(server)
        good, unknown, malformed = "ab" * 32, Tlsa(255, 7, 9, bytes(1)), Tlsa(3, 1, 1, bytes(1))
        known = {Tlsa(3, 1, 1, bytes.fromhex(good)), unknown, malformed}
        for port in (25, 26):
            answer = await resolver.tlsa("mx.test", port)
            assert (answer.status, set(answer.records), answer.canonical) == (Status.FOUND, known, "_25._tcp.mx.test")
        assert (await resolver.tlsa("mx.test", 27)).status is Status.NXDOMAIN
        assert (await resolver.tlsa("x" * 63 + ("." + "y" * 63) * 3, 25)).status is Status.NXDOMAIN  # no room for it
        assert (await resolver.alias("_26._tcp.mx.test")).records == ("_25._tcp.mx.test",)
        assert (await resolver.alias("_25._tcp.mx.test")).status is Status.NODATA


async def test_truncated_answer_is_fetched_over_tcp() -> None:
    records = "\n".join(f"many.test. 300 IN MX {i} mx{i}.a-long-name-for-a-host.many.test." for i in range(60))
    async with NameServer(records).serve() as server:
        answer = await _resolver(server).mx("many.test")
        assert answer.records == tuple(Mx(i, f"mx{i}.a-long-name-for-a-host.many.test") for i in range(60))
        assert server.over_tcp == 1


async def test_hostile_number_of_records_is_cut_to_the_best() -> None:
    records = "\n".join(f"many.test. 300 IN MX {i} mx{i}.test." for i in range(1000))
    async with NameServer(records).serve() as server:
        assert (await _resolver(server).mx("many.test")).records == tuple(Mx(i, f"mx{i}.test") for i in range(100))


async def test_same_question_is_asked_once() -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server)
        server.held["shop.test"] = trio.Event()
        answers: list[Answer[Mx]] = []

        async def ask() -> None:
            answers.append(await resolver.mx("shop.test"))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            server.held["shop.test"].set()
        assert {answer.status for answer in answers} == {Status.FOUND}
        assert len(answers) == 50
        assert server.asked == {("shop.test", "MX"): 1}


async def test_cancelled_asker_leaves_its_question_to_the_others() -> None:
    async with NameServer(ZONE).serve() as server:
        resolver = _resolver(server)
        server.held["shop.test"] = trio.Event()
        answers: list[Answer[Mx]] = []
        first = trio.CancelScope()

        async def ask(scope: trio.CancelScope) -> None:
            with scope:
                answers.append(await resolver.mx("shop.test"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, first)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(10):
                nursery.start_soon(ask, trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            server.held["shop.test"].set()
        assert [answer.status for answer in answers] == [Status.FOUND] * 10
        assert server.asked == {("shop.test", "MX"): 2}


async def test_late_asker_waits_no_longer_than_the_first(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.silent.add("shop.test")
        resolver = _resolver(server, timeout_s=7.0)
        ended: list[float] = []

        async def ask(after_s: float) -> None:
            await trio.sleep(after_s)
            await resolver.mx("shop.test")
            ended.append(trio.current_time() - began)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, 0.0)
            nursery.start_soon(ask, 6.0)
        assert ended == [7.0, 7.0]


async def test_cache_is_bounded() -> None:
    records = "\n".join(f"h{i}.test. 300 IN A 192.0.2.{i}" for i in range(10))
    async with NameServer(records).serve() as server:
        resolver = _resolver(server, cache_entries=4)
        for i in (*range(10), 9, 8, 7, 6, 5):
            await resolver.ipv4(f"h{i}.test")
        assert {name: count for (name, _), count in server.asked.items() if count > 1} == {"h5.test": 2}


async def test_system_without_resolv_conf_fails_for_now_and_recovers(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    system_file = tmp_path / "resolv.conf"
    resolver = Resolver(Dns(), system_file)
    missing = await resolver.mx("shop.test")
    assert (missing.status, missing.detail) == (
        Status.FAILED,
        f"no DNS servers: [Errno 2] No such file or directory: '{system_file}'",
    )
    system_file.write_text("search example.test\n")
    mock_clock.jump(FAILURE_TTL_S)
    empty = await resolver.mx("shop.test")
    assert (empty.status, empty.detail) == (Status.FAILED, "no DNS servers: no nameservers")


async def test_system_file_is_read_again_when_it_changes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    system_file = tmp_path / "resolv.conf"
    system_file.write_text("nameserver 127.0.0.2\noptions timeout:1\n")
    resolver = Resolver(Dns(timeout_s=3.0), system_file)
    assert (await resolver.mx("a.test")).detail == "no answer within 3 s from 127.0.0.2"
    system_file.write_text("nameserver 127.0.0.3\n# rewritten\n")
    await trio.sleep(6)
    assert (await resolver.mx("b.test")).detail == "no answer within 3 s from 127.0.0.3"
    system_file.unlink()
    await trio.sleep(6)
    assert (await resolver.mx("c.test")).detail == "no answer within 3 s from 127.0.0.3"


async def test_question_that_could_not_be_asked_is_no_failure_to_remember(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with NameServer(ZONE).serve() as server:
        server.silent.add("mx1.shop.test")
        resolver = Resolver(Dns(servers=(server.address,), timeout_s=5), questions=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resolver.ipv4, "mx1.shop.test")
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
            answer = await resolver.ipv4("short.test")
        assert (answer.status, answer.asked, trio.current_time() - begun) == (Status.FAILED, False, 5.0)
        assert answer.detail == "no server was asked in time: there were too many questions at once"
        assert server.asked.keys() == {("mx1.shop.test", "A")}
        silence = resolver.known("mx1.shop.test", "A")
        assert silence is not None
        assert (silence.status, silence.asked) == (Status.FAILED, True)
        assert (await resolver.ipv4("short.test")).records == ("192.0.2.5",)


async def test_servers_that_had_most_of_the_time_have_failed(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.silent |= {"mx1.shop.test", "short.test"}
        asked = {}
        for wait_s in (2.0, 3.0):
            resolver = Resolver(Dns(servers=(server.address,), timeout_s=5), questions=1)
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope(deadline=trio.current_time() + wait_s)

                async def hold(resolver: Resolver = resolver, scope: trio.CancelScope = scope) -> None:
                    with scope:
                        await resolver.ipv4("mx1.shop.test")

                nursery.start_soon(hold)
                await trio.testing.wait_all_tasks_blocked()
                answer = await resolver.ipv4("short.test")
            asked[wait_s] = (answer.status, answer.asked, resolver.known("short.test", "A") is not None)
        assert asked == {2.0: (Status.FAILED, True, True), 3.0: (Status.FAILED, False, False)}
