"""The policies that delivery heeds: it knows when to look, when to fetch, and what to keep.

Promise: a policy that is known is answered at once, and looked after behind the answer's back; only the first one of a
domain is waited for. One that holds is heeded until it expires, whatever becomes of the record or of the policy host in
the meantime. A domain is looked for once at a time, however many deliveries want it, and not again for a while after it
failed.

How: what was of use lately is in memory (`known`), and all of it in the store. What has to wait for the DNS,
the disk or a policy host runs below `StsPolicies.run`, and so goes on when whoever has asked gives up.

Source: RFC 8461 §3.3, §5.1.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar, TypeVarTuple, Unpack

import trio

from postroika import metrics
from postroika.config import Sts
from postroika.pump import in_task
from postroika.routing.cache import TtlCache
from postroika.routing.resolver import Answer, Resolver
from postroika.sts.fetch import FetchError
from postroika.sts.known import KnownPolicies, StsFailure
from postroika.sts.policy import StsPolicy, parse_policy
from postroika.sts.record import owner_name, read_records
from postroika.sts.store import Part, PolicyStore

log = logging.getLogger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# The record of a domain whose policy we know is not asked for more often, whatever TTL it has.
_LEAST_CHECK_S = 60.0
# What no mail has needed for that long is left to expire.
_OF_USE_S = 30 * 86_400.0
_TELL_EVERY_S = 86_400.0
_TIDY_EVERY_S = 3600.0
_TIDY_AT_ONCE = 64
_TIDY_AFTER_SAVED = 256
_RENEW_AT_ONCE = 8
_DISK_THREADS = 4


class Fetches(Protocol):
    """Who fetches; see `sts.fetch.Fetcher`."""

    async def fetch(self, domain: str) -> bytes:
        """The text of the policy of a domain."""

    def reload(self) -> None:
        """Read again what is in files. Blocks."""


class _Nothing(NamedTuple):
    """What is known of a domain without a policy."""

    failure: StsFailure | None


class _Search:
    """Somebody looks for the policy of a domain."""

    __slots__ = ("ended", "policy")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.policy: StsPolicy | None = None


class StsPolicies:
    """The policies of all domains, for one worker.

    Args:
        settings: the [sts] section.
        resolver: for the records.
        fetcher: for the policies.
        store: where they are kept.
        part: what of it this worker tidies; None: nothing.
        clock: epoch seconds.
    """

    def __init__(
        self,
        settings: Sts,
        resolver: Resolver,
        fetcher: Fetches,
        store: PolicyStore,
        part: Part | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._fetcher = fetcher
        self._store = store
        self._part = part
        self._clock = clock
        self._known = KnownPolicies(clock)
        self._nothing: TtlCache[str, _Nothing] = TtlCache(settings.cache_entries)
        self._told: TtlCache[str, bool] = TtlCache(settings.cache_entries)
        self._searches: dict[str, _Search] = {}
        self._checked: set[str] = set()
        self._saved = 0
        self._tidy_now = trio.Event()
        self._disk = trio.CapacityLimiter(_DISK_THREADS)
        self._nursery: trio.Nursery | None = None

    async def policy(self, domain: str) -> StsPolicy | None:
        """The policy to heed for mail to a domain; None if it has none, or none could be found. It never fails.

        What is known costs no task and no wait; what is not takes `dns.timeout_s` and `sts.timeout_s` at most. May be
        called in a task or a strand; while `run` does not, it is None.

        Args:
            domain: that the mail goes to by MX, in A-labels.

        Cancellation: safe at any point; the search goes on for whoever comes next.
        """
        domain = domain.rstrip(".").lower()
        known = self._known.get(domain)
        if known is not None:
            if known.check_at <= trio.current_time():
                self._check_soon(domain)
            return known.policy
        if self._nothing.get(domain, trio.current_time()) is not None or domain.startswith("["):
            return None
        return await in_task(self._searched, domain)

    def failure(self, domain: str) -> StsFailure | None:
        """Why `policy` has said None, if not because the domain has none: as long as it is not looked for again. Or why
        the policy that it has said, which holds, could not be renewed: until it can, or does not have to be; not if it
        asks for nothing, since a domain that goes away from MTA-STS may leave nothing behind (RFC 8461 §8.3)."""
        domain = domain.rstrip(".").lower()
        known = self._known.get(domain)
        if known is not None:
            return known.failure if known.policy.mode != "none" else None
        nothing = self._nothing.get(domain, trio.current_time())
        return None if nothing is None else nothing.failure

    def forget_failures(self) -> None:
        """Look anew for what could not be found, or was not there."""
        self._nothing.clear()
        self._known.check_all()

    async def reload(self) -> None:
        """Read again who may vouch for policy hosts.

        Raises:
            ConfigError: all stays as it was.
        """
        await trio.to_thread.run_sync(self._fetcher.reload)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look after the policies.

        Cancellation: ends it, and all searches; who waits for one has to be cancelled as well.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                while True:
                    with trio.move_on_after(_TIDY_EVERY_S):
                        await self._tidy_now.wait()
                    self._tidy_now = trio.Event()
                    self._saved = 0
                    if self._part is not None:
                        await self._tidy(self._part)
            finally:
                self._nursery = None

    # ---- the first one

    async def _searched(self, domain: str) -> StsPolicy | None:
        search = self._searches.get(domain)
        if search is None:
            if self._nursery is None:
                return None
            search = self._searches[domain] = _Search()
            self._nursery.start_soon(self._search, domain, search)
        await search.ended.wait()
        return search.policy

    async def _search(self, domain: str, search: _Search) -> None:
        try:
            stored = await self._on_disk(self._store.load, domain)
            if stored is not None:
                self._known.put(stored, trio.current_time())
                self._check_soon(domain)
                search.policy = stored
            else:
                search.policy = await self._first(domain)
        finally:
            del self._searches[domain]
            search.ended.set()

    async def _first(self, domain: str) -> StsPolicy | None:
        answer = await self._resolver.txt(owner_name(domain))
        try:
            record_id = read_records(answer.records)
        except ValueError as error:
            log.info("the MTA-STS record of %s counts as none: %s", domain, error)
            record_id = ""
        if not record_id:
            self._nothing.put(domain, _Nothing(None), trio.current_time(), answer.expires_at)
            return None
        try:
            policy = await self._fetch(domain, record_id)
        except FetchError as error:
            log.info("%s has no MTA-STS policy for %g s: %s", domain, self._settings.retry_s, error)
            until = trio.current_time() + self._settings.retry_s
            failure = StsFailure(error.kind, str(error))
            self._nothing.put(domain, _Nothing(failure), trio.current_time(), until)
            return None
        await self._adopt(policy, self._check_at(policy, answer))
        return policy

    async def _fetch(self, domain: str, record_id: str) -> StsPolicy:
        """The policy that the host of a domain has now.

        Raises:
            FetchError: there is none to be had.
        """
        fetched_at = self._clock()
        try:
            text = await self._fetcher.fetch(domain)
            try:
                policy = parse_policy(text).of(domain, record_id, fetched_at)
            except ValueError as error:
                raise FetchError("sts-policy-invalid", f"the policy of {domain} is broken: {error}") from error
        except FetchError as error:
            metrics.STS_FETCHES[error.kind.replace("-", "_")].value += 1
            raise
        metrics.STS_FETCHES["fetched"].value += 1
        return policy

    async def _adopt(self, policy: StsPolicy, check_at: float) -> None:
        self._known.put(policy, check_at)
        try:
            await self._on_disk(self._store.save, policy)
        except OSError as error:
            log.warning("the MTA-STS policy of %s is not kept for a restart: %s", policy.domain, error)
        self._saved += 1
        if self._saved >= _TIDY_AFTER_SAVED:
            self._tidy_now.set()

    # ---- later ones

    def _check_soon(self, domain: str) -> None:
        if self._nursery is not None and domain not in self._checked:
            self._checked.add(domain)
            self._nursery.start_soon(self._check, domain)

    async def _check(self, domain: str) -> None:
        """See whether there is a newer policy than the one that mail asks for, or that one gets old."""
        try:
            await self._on_disk(self._store.touch, domain)
            known = self._known.get(domain)
            if known is not None:
                known.check_at = await self._look_after(known.policy)
        finally:
            self._checked.discard(domain)

    async def _look_after(self, policy: StsPolicy) -> float:
        """Get a newer one, if there is one or this one gets old; Trio time of the next look."""
        answer = await self._resolver.txt(owner_name(policy.domain))
        record_id = _published_id(policy, answer)
        if record_id == policy.id and self._clock() < self._due_at(policy):
            self._known.note_failure(policy.domain, None)
            return self._check_at(policy, answer)
        other = await self._on_disk(self._store.load, policy.domain)
        if other is not None and other.id == record_id and self._clock() < self._due_at(other):
            check_at = self._check_at(other, answer)
            self._known.put(other, check_at)  # another worker has fetched it
            return check_at
        try:
            newer = await self._fetch(policy.domain, record_id)
        except FetchError as error:
            self._known.note_failure(policy.domain, StsFailure(error.kind, str(error)))
            self._tell_failure(policy, error)
            return trio.current_time() + self._settings.retry_s
        if (newer.mode, newer.patterns) != (policy.mode, policy.patterns):
            log.info("%s has a new MTA-STS policy: %s", policy.domain, newer.mode)
        check_at = self._check_at(newer, answer)
        await self._adopt(newer, check_at)
        return check_at

    def _check_at(self, policy: StsPolicy, answer: Answer[bytes]) -> float:
        """Trio time at which the record expires, or the policy gets old."""
        now = trio.current_time()
        old_at = now + self._due_at(policy) - self._clock()
        return max(min(answer.expires_at, old_at), now + _LEAST_CHECK_S)

    def _due_at(self, policy: StsPolicy) -> float:
        """Epoch seconds at which a policy is old enough to be fetched anew."""
        return policy.expires_at - policy.max_age_s + min(self._settings.refresh_s, policy.max_age_s / 2)

    def _tell_failure(self, policy: StsPolicy, error: FetchError) -> None:
        """Tell the operator, once in a while (RFC 8461 §5.1); unless the domain is on its way out of MTA-STS."""
        now = trio.current_time()
        if policy.mode == "none" or self._told.get(policy.domain, now):
            return
        self._told.put(policy.domain, True, now, now + _TELL_EVERY_S)
        log.warning("the MTA-STS policy of %s could not be renewed, and the old one holds: %s", policy.domain, error)

    # ---- the store

    async def _tidy(self, part: Part) -> None:
        """Renew what gets old though no mail asks for it now, and remove what has expired or is too much."""
        names = await self._on_disk(self._store.names, part)
        by_use: list[tuple[float, str]] = []
        due: list[StsPolicy] = []
        now = self._clock()
        for start in range(0, len(names), _TIDY_AT_ONCE):
            for found in await self._on_disk(self._store.tidy, names[start : start + _TIDY_AT_ONCE]):
                by_use.append((found.used_at, found.name))
                policy = found.policy
                # One that is short-lived would be fetched at every turn, for nobody perhaps.
                lasting = policy.max_age_s > self._settings.refresh_s and found.used_at > now - _OF_USE_S
                if lasting and self._due_at(policy) <= now:
                    due.append(policy)
        too_many = len(by_use) - -(-self._settings.cache_entries // part.workers)
        if too_many > 0:
            await self._on_disk(self._store.remove, [name for _, name in sorted(by_use)[:too_many]])
        left = iter(due)
        async with trio.open_nursery() as nursery:
            for _ in range(_RENEW_AT_ONCE):
                nursery.start_soon(self._renew, left)

    async def _renew(self, left: Iterator[StsPolicy]) -> None:
        for policy in left:
            if policy.domain in self._checked:
                continue
            self._checked.add(policy.domain)
            try:
                await self._look_after(policy)
            finally:
                self._checked.discard(policy.domain)

    async def _on_disk(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(function, *args, limiter=self._disk)


def _published_id(policy: StsPolicy, answer: Answer[bytes]) -> str:
    """The id that the record has now; that of the policy if there is no record that counts.

    Who can hide the record from us, or add one, does not keep us from renewing what we have (RFC 8461 §10.2).
    """
    try:
        return read_records(answer.records) or policy.id
    except ValueError:
        return policy.id
