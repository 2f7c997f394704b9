"""A next hop with narrow limits: a real Postfix that takes ten recipients at a time, and small messages only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.postfix_peer import Postfix, start_postfix
from tests.system.process import wait_until
from tests.system.server import Postroika

_CONFIG = """
[retry]
delays_s = [600]
[[route]]
domains = ["*"]
next_hop = "smtp://{address}"
"""
_SETTINGS = {
    "smtpd_recipient_limit": "10",
    "smtpd_recipient_overshoot_limit": "1000",
    "message_size_limit": "20000",
    "smtpd_recipient_restrictions": "check_recipient_access inline:{gone@shop.test=REJECT,full@shop.test=DEFER}",
}


class World:
    """A server and its Postfix."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.hop: Postfix = start_postfix(stack, virtual=["shop.test"], settings=_SETTINGS)
        self.server = stack.enter_context(Postroika(path, _CONFIG.format(address=self.hop.address), workers=1))

    def delivered_to(self) -> list[str]:
        """All addresses that found something in the Maildir."""
        wait_until(lambda: self.hop.queue_length() == 0, "Postfix's queue to be empty", 30)
        prefix = b"Delivered-To: "
        return sorted(
            line.removeprefix(prefix).decode()
            for content in self.hop.mailbox()
            for line in content.split(b"\n\n", 1)[0].splitlines()
            if line.startswith(prefix)
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


def test_recipients_beyond_its_limit_go_in_further_transactions(world: World) -> None:
    recipients = [f"r{number:02}@shop.test" for number in range(35)] + ["gone@shop.test", "full@shop.test"]
    with world.server.dialogue() as client:
        assert client.message("", recipients, b"Subject: x\r\n\r\nx\r\n").startswith("250")
    delivered = world.server.wait_for_events(35, "delivered")
    assert sorted(event["recipient"] for event in delivered) == recipients[:35]
    assert {event["attempt"] for event in delivered} == {1}
    (bounced,), (deferred,) = world.server.wait_for_events(1, "bounced"), world.server.wait_for_events(1, "deferred")
    assert (bounced["recipient"], bounced["reply"]["code"], bounced["reply"]["enhanced"]) == (
        "gone@shop.test",
        554,
        "5.7.1",
    )
    assert (deferred["recipient"], deferred["reply"]["code"], deferred["reply"]["enhanced"]) == (
        "full@shop.test",
        450,
        "4.7.1",
    )
    assert world.delivered_to() == recipients[:35]


def test_message_beyond_its_size_is_returned_without_being_sent(world: World) -> None:
    content = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 2000
    with world.server.dialogue() as client:
        assert client.message("", ["large@shop.test"], content).startswith("250")

    def bounced() -> list[dict[str, object]]:
        return [event for event in world.server.events_of("bounced") if event["recipient"] == "large@shop.test"]

    wait_until(bounced, "the bounce")
    (event,) = bounced()
    size = event["size_bytes"]
    assert event["reply"] == {
        "code": 552,
        "enhanced": "5.3.4",
        "text": f"The message has {size} octets, the next host takes 20000 at most",
        "stage": "mail",
        "local": True,
    }
    assert "large@shop.test" not in world.hop.log()
