"""Limits on the null sender: notifications come one recipient at a time, abuse of them does not.

Promise: pure but for the clock, and bounded. Mail with a sender, and of accounts, is not touched. Who is refused a
recipient for now may send to it in another transaction (RFC 5321 §4.5.3.1.10).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from postroika import metrics
from postroika.mail.reply import Reply, reply
from postroika.policy.client_limits import MAX_KEYS, client_of
from postroika.policy.limits import Rate, Rates
from postroika.policy.pipeline import Client
from postroika.smtp.server_events import Mail, Rcpt

TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "too many recipients for a message without sender")


class NullSender:
    """The limits of one worker.

    Args:
        recipients: of one message; 0 = any number.
        messages_per_minute: of one client; 0 = any number.
        now: of a clock that never goes back.
    """

    def __init__(self, recipients: int, messages_per_minute: int, now: Callable[[], float] = trio.current_time) -> None:
        self._recipients = recipients
        self._rates = (Rate(messages_per_minute, 60.0),) if messages_per_minute else ()
        self._tables = {4: Rates(MAX_KEYS), 6: Rates(MAX_KEYS)}
        self._now = now

    def mail(self, client: Client, mail: Mail) -> Reply | None:
        """450 to one message too many."""
        if mail.reverse_path or client.account:
            return None
        table = self._tables[6 if ":" in client.ip else 4]
        wait_s = table.take(client_of(client.ip), self._rates, self._now())
        if not wait_s:
            return None
        metrics.POLICY_REFUSALS["null_sender"].value += 1
        return reply(450, "4.7.1", f"too many messages without sender; try again in {int(wait_s) + 1} s")

    def rcpt(self, client: Client, rcpt: Rcpt) -> Reply | None:
        """452 to one recipient too many."""
        del rcpt
        mail = client.mail
        if mail is None or mail.reverse_path or client.account:
            return None
        if not self._recipients or len(client.recipients) < self._recipients:
            return None
        metrics.POLICY_REFUSALS["null_sender"].value += 1
        return TOO_MANY_RECIPIENTS
