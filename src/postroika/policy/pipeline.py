"""The hooks that judge a client's dialogue, in order.

Promise: the first verdict wins, and there is always one in time: a stage whose hooks do not answer within the
deadline is put off with 451. A stage without an asynchronous hook costs no task switch and no timer.

How: a hook is called with what is known of the client and with the event; it returns a Reply (its verdict, which
may also accept and so keep later hooks from being asked), None (no opinion), or an awaitable of one of these. If
nobody has an opinion the event is accepted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply, reply
from postroika.pump import in_task
from postroika.smtp.server_events import Mail
from postroika.tls.facts import TlsFacts

Stage = Literal["connect", "helo", "mail", "rcpt", "data"]
STAGES: tuple[Stage, ...] = ("connect", "helo", "mail", "rcpt", "data")
TOO_SLOW = reply(451, "4.7.1", "a check took too long, please try again later")


@dataclass(slots=True)
class Client:
    """What is known of the one who speaks with us, and of the transaction so far.

    Args:
        ip: canonical; an IPv4 address that came over an IPv6 socket is shown as IPv4.
        known: `ip` is the client's. If not, it is that of a proxy that could not tell whose the client's is: it is
            good for records and limits, and gives no rights.
        proxy_ip: who has told us of the client, by PROXY or XCLIENT; "" if it came to us itself.
        name: of the host at `ip`, where XCLIENT has told it; nobody has checked it.
        local_ip, local_port: our address that the client connected to, or that of the proxy.
        listener: number of the [[listener]] that took the connection.
        trusted: `ip` is in [relay] networks.
        helo: "" before EHLO.
        tls: what was agreed on; None while the client speaks in the clear.
        account, tenant: "" as long as nobody has logged in.
    """

    ip: str
    port: int = 0
    local_ip: str = ""
    listener: int = 0
    trusted: bool = False
    helo: str = ""
    mail: Mail | None = None
    recipients: list[Recipient] = field(default_factory=list)
    tls: TlsFacts | None = None
    account: str = ""
    tenant: str = ""
    known: bool = True
    proxy_ip: str = ""
    name: str = ""
    local_port: int = 0


Verdict = Reply | None
Hook = Callable[[Client, Any], "Verdict | Awaitable[Verdict]"]


class Pipeline:
    """Hooks by stage.

    Args:
        timeout_s: for all hooks of one stage of one event together.
        connect, helo, mail, rcpt, data: hooks in the order in which they are asked. They get the client, and the
            event of the stage: None, Helo, Mail, Rcpt, DataBegin.
    """

    __slots__ = ("_hooks", "_timeout_s")

    def __init__(
        self,
        timeout_s: float,
        *,
        connect: Sequence[Hook] = (),
        helo: Sequence[Hook] = (),
        mail: Sequence[Hook] = (),
        rcpt: Sequence[Hook] = (),
        data: Sequence[Hook] = (),
    ) -> None:
        self._timeout_s = timeout_s
        self._hooks: dict[str, tuple[Hook, ...]] = {
            "connect": tuple(connect),
            "helo": tuple(helo),
            "mail": tuple(mail),
            "rcpt": tuple(rcpt),
            "data": tuple(data),
        }

    def judges(self, stage: Stage) -> bool:
        """Whether anybody is to be asked at this stage."""
        return bool(self._hooks[stage])

    async def judge(self, stage: Stage, client: Client, event: object) -> Verdict:
        """The verdict on `event`: a Reply, or None to accept with the usual words.

        Cancellation: leaves nothing behind; a hook that is running is cancelled.
        """
        hooks = self._hooks[stage]
        for number, hook in enumerate(hooks):
            verdict = hook(client, event)
            if verdict is None:
                continue
            if isinstance(verdict, Reply):
                return verdict
            return await in_task(self._judge_rest, verdict, hooks[number + 1 :], client, event)
        return None

    async def _judge_rest(
        self, pending: Awaitable[Verdict], rest: Sequence[Hook], client: Client, event: object
    ) -> Verdict:
        with trio.move_on_after(self._timeout_s):
            verdict = await pending
            for hook in rest:
                if verdict is not None:
                    break
                answer = hook(client, event)
                verdict = answer if answer is None or isinstance(answer, Reply) else await answer
            return verdict
        return TOO_SLOW
