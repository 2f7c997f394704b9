"""The user's own hooks: asked as the checks of ours are, but kept apart from us.

Promise: whatever a function of the user's does, the session goes on: a failure, and a verdict that is none, defer with
451 and are logged with what went wrong; what takes too long is left behind by the pipeline. A reply has one line, and
no code but those of a verdict. A new file that is broken changes nothing.

How: functions get copies of what is known (`postroika.hooks`), which do not change under them. They run in a task of
their own, where all of Trio may be awaited.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import trio

from postroika import hooks, metrics
from postroika.errors import ConfigError
from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply, reply
from postroika.policy.hook_file import Function, HookFile, load, read
from postroika.policy.limits import Rate, Rates
from postroika.policy.pipeline import Client, Content, Hook, Stage
from postroika.smtp.server_events import DataBegin, Helo, Mail, Rcpt

log = logging.getLogger(__name__)

FAILED = reply(451, "4.3.0", "a check failed, please try again later")
BROKEN = reply(451, "4.3.5", "the checks cannot be made, please try again later")
_MOST_RUNNING = 10_000  # functions that never end, and heed no cancellation, must not eat all memory
_LOGGED = (Rate(10, 60.0),)  # of each function: a failure for each command of each client would fill the disk
# The names that users know the stages by.
_STAGES: dict[Stage, str] = {
    "connect": "connect",
    "helo": "ehlo",
    "mail": "mail",
    "rcpt": "rcpt",
    "data": "data",
    "message": "message",
}
_CODES = {"connect": {4: 421, 5: 554}}
_USUAL_CODES = {2: 250, 4: 451, 5: 550}
_OK = {"mail": "2.1.0", "rcpt": "2.1.5"}


class OwnHooks:
    """The functions of one file.

    Args:
        path: of the file.
        changed: called when it has been loaded anew, or has been found broken.
    """

    def __init__(self, path: str, changed: Callable[[], None]) -> None:
        self._path = path
        self._changed = changed
        self._file: HookFile | None = None
        self._running = 0
        self._logged = Rates()
        self._hooks: dict[Stage, Hook] = {
            "connect": self._connect,
            "helo": self._helo,
            "mail": self._mail,
            "rcpt": self._rcpt,
            "data": self._data,
            "message": self._message,
        }

    def load(self) -> None:
        """Load the file, for a start. If it is broken all MAIL is deferred until it is mended; that is logged."""
        try:
            self._file = load(self._path)
        except ConfigError as error:
            log.error("%s; all mail is deferred until it is mended and SIGHUP is sent", error)
        self._changed()

    async def reload(self) -> None:
        """Load the file again if something else is in it now.

        Raises:
            ConfigError: it is broken; all stays as it was.
        """
        try:
            source = await trio.to_thread.run_sync(read, self._path)
            if self._file is not None and source == self._file.source:
                return
            self._file = await trio.to_thread.run_sync(load, self._path, source)
        except ConfigError as error:
            raise ConfigError(f"{error}; the hooks stay as they were") from error
        log.info("hooks of %s: %s", self._path, ", ".join(self._file.functions))
        self._changed()

    def at(self, stage: Stage) -> tuple[Hook, ...]:
        """What is to be asked at a stage now: one hook, or none."""
        if self._file is None:
            return (_broken,) if stage == "mail" else ()
        return (self._hooks[stage],) if _STAGES[stage] in self._file.functions else ()

    # ---- the stages

    # What is known is copied at once, as the session goes on while a function is left behind.

    def _connect(self, client: Client, event: None) -> Awaitable[Reply | None]:
        del event
        return self._ask("connect", _client_facts(client))

    def _helo(self, client: Client, helo: Helo) -> Awaitable[Reply | None]:
        return self._ask("ehlo", _client_facts(client), helo.name)

    def _mail(self, client: Client, mail: Mail) -> Awaitable[Reply | None]:
        return self._ask("mail", _client_facts(client), _mail_facts(mail))

    def _rcpt(self, client: Client, rcpt: Rcpt) -> Awaitable[Reply | None]:
        assert client.mail is not None
        return self._ask(
            "rcpt", _client_facts(client), _mail_facts(client.mail), hooks.Recipient(rcpt.address, rcpt.orcpt)
        )

    def _data(self, client: Client, event: DataBegin) -> Awaitable[Reply | None]:
        del event
        return self._ask("data", _client_facts(client), _envelope_facts(client))

    def _message(self, client: Client, content: Content) -> Awaitable[Reply | None]:
        message = hooks.Message(_envelope_facts(client), content.header, content.size_bytes)
        return self._ask("message", _client_facts(client), message)

    # ---- asking

    async def _ask(self, name: str, client: hooks.Client, *facts: object) -> Reply | None:
        function = None if self._file is None else self._file.functions.get(name)
        if function is None:
            return None  # the file has changed since the stage began
        if self._running >= _MOST_RUNNING:
            return self._failed(name, client, f"is not asked: {_MOST_RUNNING} hooks are running already")
        self._running += 1
        try:
            return await self._call(name, function, client, *facts)
        finally:
            self._running -= 1

    async def _call(self, name: str, function: Function, client: hooks.Client, *facts: object) -> Reply | None:
        try:
            verdict = await function(client, *facts)
            if type(verdict) is hooks.Verdict:
                return _reply(name, verdict)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - what is ours is raised below, the rest is a failure
            cancelled, rest = _parted(error)
            if rest is not None:
                self._failed(name, client, "has failed", rest)
            if cancelled is not None:
                raise cancelled from None  # noqa: ASYNC104 - it is the part of it that is ours
            return FAILED  # noqa: ASYNC104 - nothing of ours was in it
        if verdict is None:
            return None
        return self._failed(name, client, f"has returned {type(verdict).__name__}, not Verdict or None")

    def _failed(self, name: str, client: hooks.Client, what: str, error: BaseException | None = None) -> Reply:
        metrics.HOOK_FAILURES.value += 1
        if not self._logged.take(name, _LOGGED, trio.current_time()):
            log.error("the hook %s %s (client %s)", name, what, client.ip, exc_info=error)
        return FAILED


def _parted(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Our cancellation, and what is none: a function may raise Cancelled though nobody has cancelled it."""
    if trio.current_effective_deadline() > -math.inf:
        return None, error
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return (error, None) if isinstance(error, trio.Cancelled) else (None, error)


def _broken(client: Client, event: object) -> Reply:
    del client, event
    return BROKEN


def _reply(name: str, verdict: hooks.Verdict) -> Reply:
    kind = verdict.kind
    if kind == 2:
        return reply(250, _OK.get(name, "2.0.0"), "Ok")
    metrics.POLICY_REFUSALS["hooks"].value += 1
    code = verdict.code or _CODES.get(name, _USUAL_CODES)[kind]
    return reply(code, verdict.enhanced or f"{kind}.7.1", verdict.line)


def _client_facts(client: Client) -> hooks.Client:
    tls = client.tls
    return hooks.Client(
        ip=client.ip,
        port=client.port,
        local_ip=client.local_ip,
        listener=client.listener,
        trusted=client.trusted,
        helo=client.helo,
        tls="" if tls is None else tls.text(),
        certificate=tls.peer_name if tls is not None and tls.verified else "",
        account=client.account,
        tenant=client.tenant,
        known=client.known,
        proxy_ip=client.proxy_ip,
        name=client.name,
    )


def _mail_facts(mail: Mail) -> hooks.Mail:
    return hooks.Mail(mail.reverse_path, mail.size_bytes, mail.smtputf8, mail.envid)


def _recipient_facts(recipient: Recipient) -> hooks.Recipient:
    return hooks.Recipient(recipient.address, recipient.orcpt)


def _envelope_facts(client: Client) -> hooks.Envelope:
    assert client.mail is not None
    return hooks.Envelope(_mail_facts(client.mail), tuple(map(_recipient_facts, client.recipients)))
