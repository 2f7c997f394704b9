"""Puts reports into our own queue, as mail of nobody's but ours.

Promise: a report that was put is on disk. It is returned to nobody: a day later it is of no use, and a notice about it
would be one more message to be counted.
"""

from __future__ import annotations

from typing import Final

from postroika.mail.envelope import Notify, Recipient, Stream
from postroika.outcome.events import EventWriter
from postroika.spool.writer import Intake
from postroika.tlsrpt.message import CAMPAIGN

RETRY_S: Final = 86_400.0  # RFC 8460 §5.5


class Mailer:
    """The way into the queue.

    Args:
        intake: of the shard.
        events: makes the event of a message that came in.
        sender: reverse-path.
    """

    def __init__(self, intake: Intake, events: EventWriter, sender: str) -> None:
        self._intake = intake
        self._events = events
        self._sender = sender

    async def put(self, address: str, message: bytes) -> None:
        """Queue a message.

        Raises:
            SpoolError: see `MessageWriter.finish`.

        Cancellation: it is queued, or it is not.
        """
        writer = self._intake.begin()
        try:
            wait = writer.write(message)
            if wait is not None:
                await wait
            await writer.finish(
                reverse_path=self._sender,
                recipients=(Recipient(address, notify=int(Notify.NEVER)),),
                received=self._events.received,
                stream=Stream.BROADCAST,
                campaign=CAMPAIGN,
                expires_at=self._intake.clock() + RETRY_S,
                ours=True,
            )
        except BaseException:
            writer.abandon()
            raise
