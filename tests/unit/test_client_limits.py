"""policy.client_limits and policy.null_sender: time is a number, so all of it is exact."""

from __future__ import annotations

from typing import Any

import pytest

from postroika.config import Policy
from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply, reply
from postroika.policy import client_limits
from postroika.policy.client_limits import ClientLimits, client_of
from postroika.policy.null_sender import TOO_MANY_RECIPIENTS, NullSender
from postroika.policy.pipeline import Client
from postroika.smtp.server_events import Mail, Rcpt

MAIL = Mail("someone@elsewhere.example")
NOTICE = Mail("")
RCPT = Rcpt("you@ours.example", "you", "ours.example")


class Clock:
    at = 100.0

    def __call__(self) -> float:
        return self.at


def limits(clock: Clock | None = None, **settings: Any) -> ClientLimits:
    return ClientLimits(Policy(**settings), clock or Clock())


def later(what: str, seconds: int, code: int = 450, enhanced: str = "4.7.1") -> Reply:
    return reply(code, enhanced, f"too many {what} from your address; try again in {seconds} s")


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, []),
        ({"max_connections_per_net": 1}, ["connections"]),
        ({"connections_per_minute": 1}, ["connections"]),
        ({"net_messages_per_minute": 1}, ["messages"]),
        ({"recipients_per_minute": 1, "net_recipients_per_minute": 1}, ["recipients"]),
    ],
)
def test_it_is_known_what_is_limited(settings: dict[str, int], kinds: list[str]) -> None:
    guard = limits(**settings)
    assert [kind for kind in ("connections", "messages", "recipients") if guard.limits(kind)] == kinds  # type: ignore[arg-type]


def test_without_limits_nothing_is_kept() -> None:
    guard = limits()
    client = Client("192.0.2.1")
    assert [guard.connect(client), guard.mail(client, MAIL), guard.rcpt(client, RCPT)] == [None] * 3
    guard.parted(client)
    assert len(guard) == 0


def test_connections_of_a_client_come_all_at_once_then_evenly() -> None:
    clock = Clock()
    guard = limits(clock, connections_per_minute=3)
    said = [guard.connect(Client("192.0.2.1")) for _ in range(5)]
    refusal = later("connections", 20, 421, "4.7.0")
    assert said == [None, None, None, refusal, refusal]
    assert guard.connect(Client("192.0.2.2")) is None
    clock.at += 19.5
    assert guard.connect(Client("192.0.2.1")) == later("connections", 1, 421, "4.7.0")
    clock.at += 0.5
    assert [guard.connect(Client("192.0.2.1")) for _ in range(2)] == [None, refusal]


def test_messages_and_recipients_are_counted_apart() -> None:
    guard = limits(messages_per_minute=2, recipients_per_minute=1)
    client = Client("192.0.2.1")
    assert [guard.mail(client, MAIL) for _ in range(3)] == [None, None, later("messages", 30)]
    assert [guard.rcpt(client, RCPT) for _ in range(2)] == [None, later("recipients", 60)]


def test_whoever_has_logged_in_is_not_counted_but_was_as_a_connection() -> None:
    guard = limits(connections_per_minute=1, messages_per_minute=1, recipients_per_minute=1)
    client = Client("192.0.2.1")
    assert guard.connect(client) is None
    client.account = "ann"
    assert [guard.mail(client, MAIL) for _ in range(3)] == [None] * 3
    assert [guard.rcpt(client, RCPT) for _ in range(3)] == [None] * 3
    assert guard.connect(Client("192.0.2.1")) == later("connections", 60, 421, "4.7.0")


@pytest.mark.parametrize(
    ("bits", "inside", "outside"),
    [
        ({}, ["192.0.2.1", "192.0.2.254", "192.0.2.77"], "192.0.3.1"),
        ({"ipv4_net_bits": 16}, ["192.0.2.1", "192.0.3.1", "192.0.255.1"], "192.1.2.1"),
        ({}, ["2001:db8:1::1", "2001:db8:1:2::1", "2001:db8:1:ffff::1"], "2001:db8:2::1"),
        ({"ipv6_net_bits": 64}, ["2001:db8:1:1::1", "2001:db8:1:1::2", "2001:db8:1:1:f::1"], "2001:db8:1:2::1"),
    ],
)
def test_a_network_has_limits_of_its_own(bits: dict[str, int], inside: list[str], outside: str) -> None:
    guard = limits(messages_per_minute=100, net_messages_per_minute=2, **bits)
    assert [guard.mail(Client(ip), MAIL) for ip in inside] == [None, None, later("messages", 30)]
    assert guard.mail(Client(outside), MAIL) is None


def test_what_the_network_refuses_is_not_taken_from_the_client() -> None:
    clock = Clock()
    guard = limits(clock, messages_per_minute=2, net_messages_per_minute=1, ipv4_net_bits=24)
    assert guard.mail(Client("192.0.2.1"), MAIL) is None
    assert [guard.mail(Client("192.0.2.2"), MAIL) for _ in range(5)] == [later("messages", 60)] * 5
    clock.at += 60
    assert guard.mail(Client("192.0.2.2"), MAIL) is None
    clock.at += 60
    assert guard.mail(Client("192.0.2.2"), MAIL) is None


@pytest.mark.parametrize(
    ("ip", "client"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::/64"), ("2001:db8:0:1:ffff::9", "2001:db8:0:1::/64")],
)
def test_an_ipv6_network_of_64_bits_is_one_client(ip: str, client: str) -> None:
    assert client_of(ip) == client


def test_connections_that_are_open_are_counted_by_network() -> None:
    guard = limits(max_connections_per_net=2)
    first, second, third = (Client(f"192.0.2.{i}") for i in (1, 2, 3))
    full = reply(421, "4.7.0", "too many connections from 192.0.2.0/24, please try again later")
    assert [guard.connect(first), guard.connect(second), guard.connect(third)] == [None, None, full]
    assert guard.connect(Client("192.0.3.1")) is None
    guard.parted(third)  # who was refused does not make room
    assert guard.connect(third) == full
    guard.parted(first)
    guard.parted(first)
    assert guard.connect(third) is None
    assert guard.connect(first) == full
    for client in (second, third):
        guard.parted(client)
    assert len(guard) == 1  # 192.0.3.0/24


def test_who_turns_out_to_be_another_is_counted_anew() -> None:
    guard = limits(max_connections_per_net=1)
    client = Client("192.0.2.1")
    assert guard.connect(client) is None
    client.ip = "198.51.100.1"
    assert guard.connect(client) is None
    assert guard.connect(Client("192.0.2.2")) is None
    assert guard.connect(Client("198.51.100.2")) is not None


def test_refused_for_the_rate_is_not_open() -> None:
    guard = limits(max_connections_per_net=10, connections_per_minute=1)
    client = Client("192.0.2.1")
    assert guard.connect(Client("192.0.2.1")) is None
    assert guard.connect(client) is not None
    assert client.counted_as == ""


def test_a_whole_48_network_does_not_make_the_tables_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_limits, "MAX_KEYS", 100)
    clock = Clock()
    guard = limits(clock, messages_per_minute=1, net_messages_per_minute=1_000_000)
    victim = Client("192.0.2.1")
    assert guard.mail(victim, MAIL) is None
    for number in range(5000):
        clock.at += 0.001
        assert guard.mail(Client(f"2001:db8:1:{number:x}::1"), MAIL) is None
        assert len(guard) <= 102
    assert guard.mail(victim, MAIL) == later("messages", 55)  # IPv6 has pushed nothing of IPv4 out


# ---- the null sender


def test_a_notice_has_few_recipients() -> None:
    guard = NullSender(2, 0, Clock())
    client = Client("192.0.2.1", mail=NOTICE)
    said = []
    for number in range(4):
        said.append(guard.rcpt(client, RCPT))
        if said[-1] is None:
            client.recipients.append(Recipient(f"r{number}@ours.example"))
    assert said == [None, None, TOO_MANY_RECIPIENTS, TOO_MANY_RECIPIENTS]
    client.mail = MAIL
    assert guard.rcpt(client, RCPT) is None
    client.mail, client.account = NOTICE, "ann"
    assert guard.rcpt(client, RCPT) is None


def test_a_client_has_few_notices() -> None:
    clock = Clock()
    guard = NullSender(0, 2, clock)
    client = Client("2001:db8::1")
    refusal = reply(450, "4.7.1", "too many messages without sender; try again in 30 s")
    assert [guard.mail(client, NOTICE) for _ in range(3)] == [None, None, refusal]
    assert guard.mail(Client("2001:db8::2"), NOTICE) == refusal
    assert guard.mail(Client("192.0.2.1"), NOTICE) is None
    assert guard.mail(client, MAIL) is None
    assert guard.mail(Client("2001:db8::1", account="ann"), NOTICE) is None
    clock.at += 30
    assert guard.mail(client, NOTICE) is None
