"""What a session knows of accounts: how its client logs in, and what it may do then.

Promise: nobody learns from a failed login whether there is such an account: the words, the work and the delay are the
same. Nobody can guess for long: failed logins are answered late, and addresses and accounts are locked
(`policy.lockout`). No password is kept, logged or shown. What an account may do is asked at each message, so that a
change of its entry counts at once.

How: `Logins` is what the sessions of a worker share; `Login` is the part of one session. The exchange itself is a state
machine (`smtp.sasl`); passwords are checked by `policy.accounts`, in threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import trio

from postroika import metrics
from postroika.inbound.failed_logins import FailedLogins
from postroika.mail.reply import Reply, reply
from postroika.policy.accounts import Account, Accounts, BusyError
from postroika.policy.limits import Rates
from postroika.policy.lockout import Lockout
from postroika.policy.pipeline import Client
from postroika.pump import in_task
from postroika.smtp.mechanisms import mechanisms, open_exchange
from postroika.smtp.sasl import (
    Challenge,
    CheckPassword,
    Exchange,
    Failed,
    FindKeys,
    Proven,
    Step,
    Succeeded,
    account_name,
)
from postroika.smtp.scram import Scram
from postroika.smtp.server import Server
from postroika.smtp.server_events import Auth, AuthResponse, Mail

AUTH_REQUIRED = reply(530, "5.7.0", "authentication is required")
TLS_REQUIRED = reply(530, "5.7.0", "STARTTLS first: authentication is required, and not offered in the clear")
NOT_HERE = reply(530, "5.7.0", "authentication is required, and cannot be had on this port")
WRONG = reply(535, "5.7.8", "authentication credentials are invalid")
MALFORMED = reply(501, "5.5.2", "malformed authentication exchange")
LOCKED = reply(454, "4.7.0", "too many failed logins, please try again later")
BUSY = reply(454, "4.7.0", "too many logins at once, please try again later")
TOO_MANY_SESSIONS = reply(454, "4.7.0", "too many sessions of this account at once")
TOO_MANY_FAILURES = reply(421, "4.7.0", "too many failed logins: closing the connection")
NO_SUCH_ACCOUNT = reply(550, "5.7.8", "LOGIN names no account that may log in")
GONE = reply(421, "4.7.0", "this account may not be used any more")
FOREIGN_SENDER = reply(550, "5.7.1", "this account may not use this reverse-path")
TOO_LARGE = reply(552, "5.3.4", "the message is larger than this account may send")
_RATES_OF_AN_ACCOUNT = 3  # minute, hour, day
_NO_BINDINGS: Mapping[str, bytes] = {}


class Rules(NamedTuple):
    """Of one listener.

    Args:
        required: nobody sends without having logged in.
        without_tls: logging in is allowed in the clear, too.
        tls: the client can begin TLS.
    """

    required: bool
    without_tls: bool
    tls: bool


class Logins:
    """What all sessions of a worker share.

    Args:
        rules: by the number of the listener.
        failed: the record of those who were not let in.
        failure_delay_s: see [accounts] in the config.
        failures_per_session: after that many the session ends.
        check_timeout_s: for a password to be checked.
    """

    def __init__(
        self,
        accounts: Accounts,
        lockout: Lockout,
        rules: Sequence[Rules],
        failed: FailedLogins,
        *,
        failure_delay_s: float,
        failures_per_session: int,
        check_timeout_s: float,
    ) -> None:
        self.accounts = accounts
        self.lockout = lockout
        self.rules = tuple(rules)
        self.failed = failed
        self.failure_delay_s = failure_delay_s
        self.failures_per_session = failures_per_session
        self.rates = Rates(0)
        self.sessions: dict[str, int] = {}
        self._check_timeout_s = check_timeout_s

    def open(self, client: Client) -> Login:
        """For a new session."""
        return Login(self, client)

    def take_recipient(self, account: Account, now: float) -> float:
        """Count a recipient; 0.0, or after how many seconds it may come."""
        # No account pushes out another: there is room for all of them, as many as the file has by now, and for as many
        # that it has no more.
        room = 2 * _RATES_OF_AN_ACCOUNT * len(self.accounts)
        self.rates.max_keys = max(self.rates.max_keys, room)
        return self.rates.take(account.name, account.rates, now)

    async def check(self, name: str, password: str) -> Account | None:
        """As `Accounts.check`.

        Raises:
            BusyError: too many wait, or it took too long.
        """
        with trio.move_on_after(self._check_timeout_s):
            return await self.accounts.check(name, password)
        raise BusyError


class Login:
    """Of one session.

    Attributes:
        account: who has logged in, as things were at the last MAIL; None if nobody has.
    """

    __slots__ = ("_bindings", "_client", "_exchange", "_failures", "_logins", "_rules", "account")

    def __init__(self, logins: Logins, client: Client) -> None:
        self._logins = logins
        self._rules = logins.rules[client.listener]
        self._client = client
        self._exchange: Exchange | None = None
        self._failures = 0
        self.account: Account | None = None
        self._bindings = _NO_BINDINGS

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Those that may be offered on the connection as it is."""
        if self._client.tls is None and not self._rules.without_tls:
            return ()
        return mechanisms(self._bindings)

    @property
    def judges(self) -> bool:
        """There is something to say about MAIL and RCPT."""
        return self._rules.required or self.account is not None

    def begin_tls(self, bindings: Mapping[str, bytes]) -> None:
        """The connection is in TLS now, with these channel bindings by name. Who logged in before it was is forgotten
        (RFC 3207 §4.2)."""
        self.close()
        self._bindings = bindings

    def close(self) -> None:
        """The session ends: nobody is logged in any more. May be called twice."""
        account, self.account = self.account, None
        self._exchange = None
        if account is not None:
            self._client.account = self._client.tenant = ""
            sessions = self._logins.sessions
            sessions[account.name] -= 1
            if not sessions[account.name]:
                del sessions[account.name]

    # ---- logging in

    async def advance(self, server: Server, event: Auth | AuthResponse) -> None:
        """Go on with the exchange; the server gets a challenge or the answer.

        Raises:
            Interrupted: the session has to end.
        """
        if isinstance(event, Auth):
            self._exchange = open_exchange(event.mechanism, self._bindings)
            step = self._exchange.begin(event.initial)
        else:
            assert self._exchange is not None
            step = self._exchange.respond(event.response)
        if isinstance(step, FindKeys):
            step = self._with_keys(step)
        if isinstance(step, Proven):
            step = self._if_it_may(step)
        if isinstance(step, Challenge):
            server.challenge(step.octets)
            return
        self._exchange = None
        server.answer(await self._conclude(step))

    def _with_keys(self, step: FindKeys) -> Step:
        assert isinstance(self._exchange, Scram)
        return self._exchange.use(self._logins.accounts.keys(step.name))

    def _if_it_may(self, step: Proven) -> Step:
        """The client learns that its proof is good only if that lets it in: who is locked out must not go on guessing
        by it, nor find the password of a disabled account."""
        logins, name = self._logins, step.name
        locked = logins.lockout.locks_out(self._client.ip, name, trio.current_time())
        return Succeeded(name) if locked or logins.accounts.usable(name) is None else Challenge(step.octets)

    async def _conclude(self, step: Step) -> Reply | None:
        """The answer to the last step: None lets the client in."""
        logins = self._logins
        if isinstance(step, Failed) and step.malformed:
            self.note_malformed(MALFORMED, step.why)
            return await self._late(1.0, MALFORMED)
        assert isinstance(step, CheckPassword | Succeeded | Failed)
        name = step.name
        if logins.lockout.locks_out(self._client.ip, name, trio.current_time()):
            logins.failed.unheard(self._client, name, "locked_out", "locked out: not looked at", LOCKED)
            return await self._late(1.0, LOCKED)
        if isinstance(step, CheckPassword):
            try:
                account = await in_task(logins.check, name, step.password)
            except BusyError:
                logins.failed.unheard(self._client, name, "busy", "too many logins at once: not looked at", BUSY)
                return BUSY
        else:
            account = logins.accounts.usable(name) if isinstance(step, Succeeded) else None
        if account is None:
            return await self._fail(name, step.why if isinstance(step, Failed) else "")
        return self._let_in(account)

    def _let_in(self, account: Account) -> Reply | None:
        logins, name = self._logins, account.name
        logins.lockout.succeeded(self._client.ip, name)
        count = logins.sessions.get(name, 0)
        if 0 < account.max_connections <= count:
            metrics.LOGINS["too_many"].value += 1
            return TOO_MANY_SESSIONS
        logins.sessions[name] = count + 1
        self.account = account
        self._client.account, self._client.tenant = name, account.tenant
        metrics.LOGINS["succeeded"].value += 1
        return None

    async def _fail(self, name: str, why: str) -> Reply:
        logins, client = self._logins, self._client
        exists = logins.accounts.exists(name)
        failure = logins.lockout.failed(client.ip, name, trio.current_time())
        if not why:
            usable = logins.accounts.usable(name) is not None
            why = "wrong password" if usable else "the account is disabled" if exists else "no such account"
        if failure.locks:
            why += "; locked out"
        logins.failed.wrong(client, name, why, WRONG)
        return await self._late(failure.delay, WRONG)

    def note_malformed(self, answer: Reply, why: str = "") -> None:
        """What the client has sent makes no sense in an exchange; it is told `answer`."""
        self._exchange = None
        why = f"malformed: {why or answer.text}"
        self._logins.failed.unheard(self._client, "", "malformed", why, answer)

    async def _late(self, delay: float, answer: Reply) -> Reply:
        """Put a refusal off, and make it the last one of a session that has had too many."""
        self._failures += 1
        delay_s = delay * self._logins.failure_delay_s
        if delay_s:
            await in_task(trio.sleep, delay_s)
        return TOO_MANY_FAILURES if self._failures >= self._logins.failures_per_session else answer

    # ---- logged in elsewhere

    def find(self, name: str) -> Account | Reply:
        """The account that the client has logged in to, as a trusted peer says (XCLIENT); or why it cannot be."""
        try:
            account = self._logins.accounts.usable(account_name(name))
        except ValueError:
            account = None
        if account is None:
            return NO_SUCH_ACCOUNT
        count = self._logins.sessions.get(account.name, 0)
        if self.account is not None and self.account.name == account.name:
            count -= 1
        return TOO_MANY_SESSIONS if 0 < account.max_connections <= count else account

    def become(self, account: Account | None) -> None:
        """The client is another one, who has logged in to this account (of `find`), or to none."""
        self.close()
        self._failures = 0
        if account is not None:
            self._let_in(account)

    # ---- what the account may do

    def judge_mail(self, mail: Mail) -> Reply | None:
        """The verdict on MAIL; None if there is nothing against it."""
        name = self._client.account
        if not name:
            if not self._rules.required:
                return None
            if self.mechanisms:
                return AUTH_REQUIRED
            return TLS_REQUIRED if self._rules.tls else NOT_HERE
        account = self._logins.accounts.usable(name)
        if account is None:
            return GONE
        self.account = account
        self._client.tenant = account.tenant
        if 0 < account.max_message_bytes < mail.size_bytes:
            return TOO_LARGE
        # The null sender is for notifications (RFC 8098 §3); who wrote them is in From, which is checked.
        if mail.reverse_path and mail.reverse_path not in account.senders:
            return FOREIGN_SENDER
        return None

    def judge_recipient(self) -> Reply | None:
        """The verdict on a recipient that is accepted otherwise; it counts towards the limits of the account."""
        account = self.account
        if account is None or not account.rates:
            return None
        wait_s = self._logins.take_recipient(account, trio.current_time())
        if not wait_s:
            return None
        return reply(450, "4.7.1", f"too many recipients of this account; try again in {int(wait_s) + 1} s")
