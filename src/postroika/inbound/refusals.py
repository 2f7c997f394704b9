"""The record of what one session was refused.

Promise: each refusal is counted, and has an event with who was refused what, and how; but a client that is refused for
ever does not fill our disk.
"""

from __future__ import annotations

from collections.abc import Callable

from postroika import metrics
from postroika.mail.reply import Reply
from postroika.outcome.events import Refusal
from postroika.policy.pipeline import Client
from postroika.smtp.server_events import Refused

MAX_REJECTED_EVENTS = 1000  # of one session

_GOT = {
    "connect": "connect",
    "tls": "tls",
    "helo": "ehlo",
    "xclient": "xclient",
    "mail": "mail",
    "rcpt": "rcpt",
    "data": "data",
    "body": "final_dot",
}


class RefusalRecord:
    """Of one session.

    Args:
        client: as it is when something is refused.
        rejected: records a refusal and counts it in `metrics.REJECTED`; must not block and must not fail.
    """

    __slots__ = ("_client", "_recorded", "_rejected")

    def __init__(self, client: Client, rejected: Callable[[Refusal], None]) -> None:
        self._client = client
        self._rejected = rejected
        self._recorded = 0

    def note(
        self, stage: str, given: Reply, *, sender: str | None = None, recipient: str = "", size_bytes: int = 0
    ) -> None:
        """The client was refused something, and told so with `given`.

        Args:
            stage: of `policy.pipeline`, or "tls", "xclient", "body".
            sender: None: that of the transaction, if there is one.
        """
        stage = _GOT[stage]
        self._recorded += 1
        if self._recorded > MAX_REJECTED_EVENTS:
            metrics.REJECTED[stage].value += 1
            return
        client = self._client
        if sender is None and client.mail is not None:
            sender = client.mail.reverse_path
        self._rejected(
            Refusal(
                client.ip,
                client.helo,
                sender,
                recipient,
                given,
                stage,
                size_bytes,
                client.account,
                client.tenant,
                client.tls,
            )
        )

    def note_refused(self, event: Refused) -> None:
        """The protocol has refused a command; what it was about is in its argument, as the client wrote it."""
        if event.stage == "protocol":
            self.note("helo" if not self._client.helo else "mail", event.reply)
        elif event.stage == "mail":
            self.note("mail", event.reply, sender=_path_in(event.detail))
        elif event.stage == "rcpt":
            self.note("rcpt", event.reply, recipient=_path_in(event.detail))
        elif event.stage == "xclient":
            self.note("xclient", event.reply)
        else:
            self.note("data", event.reply)


def _path_in(argument: str) -> str:
    """What stands between < and > in the refused argument of MAIL or RCPT; all of it where nothing does."""
    start, stop = argument.find("<"), argument.rfind(">")
    return argument[start + 1 : stop] if 0 <= start < stop else argument
