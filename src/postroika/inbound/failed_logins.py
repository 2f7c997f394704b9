"""The record of logins that failed: which of them have an event.

Promise: each password that was checked and is wrong has one; `policy.lockout` bounds how many these are. Of tries that
nobody looks at any more (locked out, too many at once, no exchange that makes sense), which a client may repeat for
ever, no address has more events than failures lock it out, and a worker has a hundred a second at most: who attacks
can fill the log at most twice as fast as with wrong passwords.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from postroika import metrics
from postroika.mail.reply import Reply
from postroika.outcome.events import FailedLogin
from postroika.policy.client_limits import client_of
from postroika.policy.limits import Rate, Rates
from postroika.policy.pipeline import Client

_OF_ALL = Rate(100, 1.0)


class FailedLogins:
    """Of a worker.

    Args:
        record: records a failed login; must not block and must not fail.
        tenant: whose an account is, by its name; "" if nobody's, or if there is none.
        per_ip: failures that lock an address out,
        period_s: within this time.
    """

    def __init__(
        self, record: Callable[[FailedLogin], None], tenant: Callable[[str], str], per_ip: int, period_s: float
    ) -> None:
        self._record_it = record
        self._tenant = tenant
        self._of_one = Rate(per_ip, period_s)
        self._rates = Rates()

    def wrong(self, client: Client, name: str, why: str, answer: Reply) -> None:
        """A name, password or proof was looked at, and is wrong."""
        metrics.LOGINS["failed"].value += 1
        self._record(client, name, why, answer)

    def unheard(self, client: Client, name: str, result: str, why: str, answer: Reply) -> None:
        """A try that was not looked at.

        Args:
            name: "" if it is not known.
            result: of `metrics.LOGINS`.
        """
        metrics.LOGINS[result].value += 1
        wanted = ((client_of(client.ip), self._of_one), (None, _OF_ALL))
        if not self._rates.take_all(wanted, trio.current_time()):
            self._record(client, name, why, answer)

    def _record(self, client: Client, name: str, why: str, answer: Reply) -> None:
        self._record_it(FailedLogin(client.ip, client.helo, name, why, answer, client.tls, self._tenant(name)))
