"""The accounts that may log in: found by name, their passwords checked, read again when their file changes.

Promise: a name that no account has, a wrong password and a disabled account take the same steps and the same time: for
each of them one hash is computed. Passwords are checked in a bounded number of threads, never on the loop; when too
many wait, more are refused. A file that has become unusable changes nothing, and is logged.

How: what `Accounts` hands out are frozen `Account`s; after a change of the file there are others, and who keeps a name
finds the new one. Limits of an account over all workers are cut in equal shares, rounded up.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from postroika import config
from postroika.errors import ConfigError
from postroika.mail.address import canonical_domain, split_address
from postroika.policy import account_file
from postroika.policy.limits import Rate
from postroika.policy.passwords import hash_of_nothing, matches
from postroika.policy.relay import Domains
from postroika.smtp.sasl import account_name
from postroika.smtp.scram import ScramKeys, Usual, keys_of_nobody, read_keys, usual

log = logging.getLogger(__name__)

_LOOK_S = 2.0  # between two looks at the file
_WAITING_PER_THREAD = 16  # less than a second of work
_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86_400.0


class BusyError(Exception):
    """Too many passwords wait to be checked."""


class Addresses:
    """A set of addresses: exact ones, "@domain", "@.domain" for all domains below it, "*". Case makes no difference.

    Args:
        patterns: checked by `config.account_problems`.
    """

    __slots__ = ("_all", "_domains", "_exact")

    def __init__(self, patterns: Iterable[str]) -> None:
        domains: list[str] = []
        exact: set[tuple[str, str]] = set()
        self._all = False
        for pattern in patterns:
            local, domain = split_address(pattern) if "@" in pattern else (pattern, "")
            if pattern == "*":
                self._all = True
            elif local:
                exact.add((local.lower(), canonical_domain(domain)))
            else:
                domains.append(domain)
        self._domains = Domains(domains)
        self._exact = frozenset(exact)

    @property
    def everything(self) -> bool:
        """Each address is in it."""
        return self._all

    def __contains__(self, address: str) -> bool:
        if self._all:
            return True
        local, domain = split_address(address)
        try:
            domain = canonical_domain(domain)
        except ValueError:
            return False
        return domain in self._domains or (local.lower(), domain) in self._exact


class Account:
    """One account as a worker sees it: limits are its share of them, 0 where there is none.

    Args:
        entry: checked by `config.account_problems`.
        workers: among how many the limits are shared.

    Raises:
        ValueError: the name, or the SCRAM keys, cannot be used.
    """

    __slots__ = (
        "disabled", "from_addresses", "keys", "max_connections", "max_message_bytes", "name", "password_hash", "rates",
        "senders", "tenant",
    )  # fmt: skip

    def __init__(self, entry: config.Account, workers: int) -> None:
        self.name = account_name(entry.name)
        self.tenant = entry.tenant
        self.disabled = entry.disabled
        self.password_hash = entry.password.reveal()
        self.keys: ScramKeys | None = read_keys(entry.scram.reveal()) if entry.scram else None
        self.senders = Addresses(entry.senders or (entry.name,))
        self.from_addresses = Addresses(entry.from_addresses) if entry.from_addresses else self.senders
        self.max_message_bytes = entry.max_message_bytes
        self.max_connections = -(-entry.max_connections // workers)
        limits = (
            (entry.recipients_per_minute, _MINUTE_S),
            (entry.recipients_per_hour, _HOUR_S),
            (entry.recipients_per_day, _DAY_S),
        )
        self.rates = tuple(Rate(-(-count // workers), period_s) for count, period_s in limits if count)


def accounts_by_name(entries: Iterable[config.Account], workers: int = 1) -> dict[str, Account]:
    """All accounts, as a worker finds them.

    Raises:
        ConfigError: one of them cannot be used, or has the name of another; the text has no secrets.
    """
    by_name: dict[str, Account] = {}
    for entry in entries:
        try:
            account = Account(entry, workers)
        except ValueError as error:
            raise ConfigError(f"account {entry.name!r}: {error}") from None
        if by_name.setdefault(account.name, account) is not account:
            raise ConfigError(f"account {entry.name!r} is there twice, perhaps in the config and in accounts.file")
    return by_name


class Accounts:
    """All accounts, of the config and of the file.

    Args:
        listed: those of the config.
        file: None if there is none.
        workers: among how many limits are shared.
        threads: that check passwords.

    Raises:
        ConfigError: the file cannot be used, or names an account of the config once more, or the hashes cannot be
            computed.
    """

    def __init__(
        self, listed: Sequence[config.Account], file: Path | None, *, workers: int = 1, threads: int = 2
    ) -> None:
        self._listed = tuple(listed)
        self._file = file
        self._workers = workers
        self._limiter = trio.CapacityLimiter(threads)
        self._most_waiting = threads * _WAITING_PER_THREAD
        self._waiting = 0
        self._by_name: dict[str, Account] = {}
        self._nothing = ""  # the hash that is checked for names that no account has
        self._usual = Usual()
        self._seed = b""
        self._seen = self._look()
        self._take(account_file.AccountFile() if file is None else account_file.read(file))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_name)

    def exists(self, name: str) -> bool:
        """Whether there is such an account, disabled or not."""
        return name in self._by_name

    def usable(self, name: str) -> Account | None:
        """The account of that name (of `sasl.account_name`), unless it is disabled."""
        account = self._by_name.get(name)
        return None if account is None or account.disabled else account

    def tenant(self, name: str) -> str:
        """Whose account it is, disabled or not; "" if nobody's, or if there is none."""
        account = self._by_name.get(name)
        return "" if account is None else account.tenant

    def keys(self, name: str) -> ScramKeys:
        """What SCRAM needs; for a name without keys, some that nobody can prove."""
        account = self._by_name.get(name)
        nobody = keys_of_nobody(self._seed, name, self._usual)
        return nobody if account is None or account.keys is None else account.keys

    async def check(self, name: str, password: str) -> Account | None:
        """The usable account of that name, if this is its password. One hash is computed, whatever the answer.

        Raises:
            BusyError: too many wait.

        Cancellation: waits for the hash that is being computed.
        """
        if self._waiting >= self._most_waiting:
            raise BusyError
        account = self._by_name.get(name)
        stored = self._nothing if account is None or not account.password_hash else account.password_hash
        self._waiting += 1
        try:
            good = await trio.to_thread.run_sync(matches, stored, password, limiter=self._limiter)
        finally:
            self._waiting -= 1
        return self.usable(name) if good else None

    async def watch(self) -> None:
        """Read the file again whenever it has changed, for ever.

        Cancellation: at any time.
        """
        while self._file is not None:
            await trio.sleep(_LOOK_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the file again if it has changed. One that cannot be used is logged, and the old accounts stay."""
        seen = await trio.to_thread.run_sync(self._look)
        if self._file is None or seen == self._seen:
            return
        self._seen = seen
        try:
            if seen is None:
                raise ConfigError(f"{self._file}: is gone")
            content = await trio.to_thread.run_sync(account_file.read, self._file)
            await trio.to_thread.run_sync(self._take, content)
        except ConfigError as error:
            log.error("the accounts stay as they were: %s", error)
        else:
            log.info("%d account%s", len(self._by_name), "" if len(self._by_name) == 1 else "s")

    def _look(self) -> tuple[int, ...] | None:
        """What changes with the file; None if there is none."""
        if self._file is None:
            return None
        try:
            facts = self._file.stat()
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_size, facts.st_mode

    def _take(self, content: account_file.AccountFile) -> None:
        """Replace all accounts at once. May be called in a thread: what others see changes in single assignments."""
        by_name = accounts_by_name((*self._listed, *content.account), self._workers)
        hashes = [account.password_hash for account in by_name.values() if account.password_hash]
        try:
            self._nothing = hash_of_nothing(hashes)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._usual = usual(account.keys for account in by_name.values() if account.keys)
        self._seed = content.seed_bytes or hashlib.sha256("".join(sorted(hashes)).encode()).digest()
        self._by_name = by_name
