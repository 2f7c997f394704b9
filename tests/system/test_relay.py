"""Loads through Postroika between real peers. By hand with more: python -m tests.system.relay."""

from pathlib import Path

import pytest

from tests.system import relay
from tests.system.accounts import Accounts
from tests.system.relay import CLIENT, HOP, Arrived


@pytest.mark.parametrize(
    ("client", "hop", "messages", "recipients"),
    [
        ("smtp-source", "smtp-sink", 2000, 1),
        ("smtp-source", "smtp-sink", 50, 100),
        ("smtp-source", "sink", 2000, 1),
        ("smtp-source", "postfix", 500, 1),
        ("smtp-source", "postfix", 10, 50),
        ("postfix", "smtp-sink", 500, 1),
        ("postfix", "postfix", 50, 10),
    ],
)
def test_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, client: CLIENT, hop: HOP, messages: int, recipients: int
) -> None:
    relayed = relay.run(tmp_path, messages=messages, recipients=recipients, client=client, hop=hop)
    copies = messages * recipients
    # A Maildir has a file for each recipient.
    assert relayed.arrived == Arrived(copies if hop == "postfix" else messages, copies, copies)
    assert relayed.said == Accounts(copies, {"delivered": copies})
