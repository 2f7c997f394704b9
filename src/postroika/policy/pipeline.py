"""The hooks that judge a client's dialogue, in order.

Promise: the first verdict wins, and there is always one in time: a stage whose hooks do not answer within the
deadline is put off with 451, whatever they are doing. A stage without an asynchronous hook costs no task switch and no
timer, and one without hooks costs nothing.

How: a hook is called with what is known of the client and with the event; it returns a Reply (its verdict, which
may also accept and so keep later hooks from being asked), None (no opinion), or an awaitable of one of these. If
nobody has an opinion the event is accepted. Clients that most hooks have nothing to say about (`policy.checks` says
who) have a pipeline of their own, in which these are not.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import trio

from postroika import metrics
from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply, reply
from postroika.policy.limits import Rate, Rates
from postroika.pump import Late, in_task
from postroika.smtp.server_events import Mail
from postroika.tls.facts import TlsFacts

log = logging.getLogger(__name__)

Stage = Literal["connect", "helo", "mail", "rcpt", "data", "message"]
STAGES: tuple[Stage, ...] = ("connect", "helo", "mail", "rcpt", "data", "message")
TOO_SLOW = reply(451, "4.7.1", "a check took too long, please try again later")
_LOGGED = (Rate(10, 60.0),)  # a stage whose checks are too slow for everybody must not fill the log


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
        counted_as: the network that it is counted in while it is there; of `policy.client_limits`.
        remembered: verdicts that hold for the whole session, by what each check calls them.
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
    counted_as: str = ""
    remembered: dict[object, Reply | None] = field(default_factory=dict)


class Content(NamedTuple):
    """A message that has been received whole: the event of the stage "message".

    Args:
        header: as the client has sent it, at least as much of it as `limits.max_header_bytes` allows.
    """

    header: bytes
    size_bytes: int


Verdict = Reply | None
Hook = Callable[[Client, Any], "Verdict | Awaitable[Verdict]"]


class Pipeline:
    """Hooks by stage.

    Args:
        timeout_s: for all hooks of one stage of one event together.
        connect, helo, mail, rcpt, data, message: hooks in the order in which they are asked. They get the client, and
            the event of the stage: None, Helo, Mail, Rcpt, DataBegin, Content.
        parted: told of each client that leaves.
        others: the pipelines of some clients, and which ones; the first that fits is theirs.
    """

    __slots__ = ("_hooks", "_logged", "_others", "_parted", "_timeout_s")

    def __init__(
        self,
        timeout_s: float,
        *,
        connect: Sequence[Hook] = (),
        helo: Sequence[Hook] = (),
        mail: Sequence[Hook] = (),
        rcpt: Sequence[Hook] = (),
        data: Sequence[Hook] = (),
        message: Sequence[Hook] = (),
        parted: Iterable[Callable[[Client], None]] = (),
        others: Sequence[tuple[Callable[[Client], bool], Pipeline]] = (),
    ) -> None:
        self._timeout_s = timeout_s
        self._hooks: dict[Stage, tuple[Hook, ...]] = {}
        for stage, hooks in zip(STAGES, (connect, helo, mail, rcpt, data, message), strict=True):
            self.ask(stage, hooks)
        self._parted = tuple(parted)
        self._others = tuple(others)
        self._logged = Rates()

    def ask(self, stage: Stage, hooks: Sequence[Hook]) -> None:
        """From now on, ask these. Sessions that are open may go on passing over a stage that had no hooks before."""
        self._hooks[stage] = tuple(hooks)

    def of(self, client: Client) -> Pipeline:
        """That which judges this client."""
        for fits, pipeline in self._others:
            if fits(client):
                return pipeline
        return self

    def judges(self, stage: Stage) -> bool:
        """Whether anybody is to be asked at this stage."""
        return bool(self._hooks[stage])

    async def judge(self, stage: Stage, client: Client, event: object) -> Verdict:
        """The verdict on `event`: a Reply, or None to accept with the usual words.

        Cancellation: leaves nothing behind; a hook that is running is cancelled, and not waited for by a strand.
        """
        hooks = self._hooks[stage]
        for number, hook in enumerate(hooks):
            verdict = hook(client, event)
            if verdict is None:
                continue
            if isinstance(verdict, Reply):
                return verdict
            rest, begun = hooks[number + 1 :], trio.current_time()
            try:
                verdict = await in_task(_judge_rest, verdict, rest, client, event, within_s=self._timeout_s)
            except Late:
                return self._too_slow(stage, client)
            # One that has held up all of us has not noticed its deadline, nor have we.
            late = trio.current_time() - begun > self._timeout_s
            return self._too_slow(stage, client) if late else verdict
        return None

    def part(self, client: Client) -> None:
        """The client has gone."""
        for parted in self._parted:
            parted(client)

    def _too_slow(self, stage: Stage, client: Client) -> Reply:
        metrics.POLICY_TIMEOUTS.value += 1
        if not self._logged.take(stage, _LOGGED, trio.current_time()):
            log.warning("the checks at %s of %s took longer than %g s", stage, client.ip, self._timeout_s)
        return TOO_SLOW


async def _judge_rest(pending: Awaitable[Verdict], rest: Sequence[Hook], client: Client, event: object) -> Verdict:
    verdict = await pending
    for hook in rest:
        if verdict is not None:
            break
        answer = hook(client, event)
        verdict = answer if answer is None or isinstance(answer, Reply) else await answer
    return verdict
