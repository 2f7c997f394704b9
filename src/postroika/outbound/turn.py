"""The use of one place at a site: one connection, or as many as the batches in hand need.

Promise: what is taken from the lane is reported or given back, whatever becomes of connections; hosts are tried in
order, and each only by the policy that holds when it is connected to.

`delivery` finds the route and the place; `session` does the work on a connection.
"""

from __future__ import annotations

from collections import deque
from typing import cast

from postroika.mail.outcome import Attempt, Peer, RecipientResult, Stage
from postroika.mail.reply import reply
from postroika.outbound import classify
from postroika.outbound.connection import Connection
from postroika.outbound.contract import Lane
from postroika.outbound.failure import NoSession
from postroika.outbound.job import Job
from postroika.outbound.opening import NO_TRUSTED_HOST, Way, trusted, waives_tls
from postroika.outbound.session import End, Session
from postroika.outbound.tools import Tools
from postroika.routing.router import NoRoute, Route
from postroika.smtp.client_transaction import Verdict
from postroika.spool.reader import Loaded
from postroika.tlsrpt.message import CAMPAIGN as REPORTS

# With a connect timeout of 30 s this bounds an attempt against dead hosts to five minutes. (Postfix's
# smtp_mx_address_limit is 5, too, but lets a first host with many addresses hide the backup.)
_MAX_HOSTS = 5
_MAX_ADDRESSES_PER_HOST = 2
# So many batches may follow each other before we look whether the recipient's domain asks for something else by now.
_BATCHES_UNASKED = 20


class Turn:
    """The use of one place at a site.

    Args:
        tools: of the worker.
        lane: where batches come from.
        route: where they go.
        place: what the place is called in the pool.
        warm: a connection that came with the place.
    """

    def __init__(self, tools: Tools, lane: Lane, route: Route, place: str, warm: Connection | None) -> None:
        self._tools = tools
        self._lane = lane
        self._route = route
        self._site = route.site
        self._place = place
        self._ways = [
            Way(Peer(host.name, address, host.port), host.tls, number)
            for number, host in enumerate(route.hosts[:_MAX_HOSTS])
            for address in host.addresses[:_MAX_ADDRESSES_PER_HOST]
        ]
        self._connection = warm
        self._peer = self._ways[0].peer
        self._source = self._tls = ""
        self._open: dict[Job, None] = {}
        self._handed_over = False
        self._published = route.published
        self._fresh = True  # the route was named just now
        self._unasked = 0  # batches since it was looked whether the route is still the same
        self._outdated = False  # it is not: nothing more is taken

    async def run(self) -> bool:
        """Whether the lane may have more."""
        connection = self._connection
        job = self.take()
        if job is None:
            if connection is not None and not self._hand_over(connection):
                await self._leave(connection)
            return False
        if job.loaded.batch.envelope.requiretls:
            if connection is not None:
                await self._leave(connection)
            await self._serve_strictly(job)
            return True
        at = 0
        if connection is not None:
            known = self._place_of(connection)
            if known is None or connection.looks_closed() or connection.identity != self._route.identity:
                self._connection = None
                connection.close()
            else:
                at = known
        return await self._serve(deque([job]), self._ways, at, takes=True)

    async def _serve(self, jobs: deque[Job], ways: list[Way], start: int, *, takes: bool, waived: bool = False) -> bool:
        """Work until `jobs` is empty (and, with `takes`, as long as the lane has more). Whether it may have more.

        Args:
            waived: by the config's policies alone, which do not change, whatever the recipient's domain publishes. TLS
                reports are not to tell of connections.
        """
        while True:
            connection, at = self._connection, start
            fresh, self._fresh = self._fresh, False
            if connection is None:
                if not (fresh or waived) and await self._has_changed():
                    self._set_aside(jobs)
                    return takes
                # RFC 8460 §3: reports about the sessions that brought reports would have no end.
                reported = not waived and jobs[0].loaded.batch.envelope.campaign != REPORTS
                counted_for = self._lane.destination if reported else ""
                opened = await self._first_open(ways, start, counted_for, waived=waived)
                if isinstance(opened, Verdict):
                    await self._waive(jobs, ways)
                    if not jobs:
                        return takes
                    self._give_up(jobs, opened, takes=takes)
                    return False
                at, connection = opened
            self._connection = connection
            self._peer, self._source, self._tls = connection.peer, connection.source, connection.tls
            self._lane.connected()
            beyond = self._next_host(ways, at)
            session = Session(
                connection,
                jobs,
                self,
                self._tools.bodies,
                self._tools.in_flight,
                self._tools.config,
                takes=takes,
                alternatives=beyond < len(ways),
                signer=self._tools.signer,
            )
            end = await session.run()
            while end is End.WANTED and not self._hand_over(connection):
                end = await session.run()
            if end is End.WANTED or (end is End.IDLE and takes and self._hand_over(connection)):
                return self._outdated
            await self._leave(connection)
            if session.leftovers:
                await self._serve(deque(session.leftovers), ways, beyond, takes=False)
            if session.apart is not None:
                await self._serve_strictly(session.apart)
            if end is End.LOST and session.spoiled and session.failed is not None:
                start = at + 1
                if start >= len(ways):
                    if any(job.tried for job in jobs):
                        self._give_back(jobs)
                    self._give_up(jobs, session.failed, takes=takes)
                    return False
            if end is End.IDLE:
                return self._outdated
            if not jobs:
                return True

    async def _serve_strictly(self, job: Job) -> None:
        """A batch with REQUIRETLS."""
        if not self._fresh and await self._has_changed():
            self._set_aside(deque([job]))
            return
        ways = trusted(self._ways)
        if ways:
            await self._serve(deque([job]), ways, 0, takes=False)
        else:
            job.fail(Verdict(Stage.ROUTING, NO_TRUSTED_HOST, remote=False))
            self.report(job)

    async def _first_open(
        self, ways: list[Way], start: int, counted_for: str, *, waived: bool
    ) -> tuple[int, Connection] | Verdict:
        """A session with the first host that will have one, or why none will (rather a reason that may pass). Once the
        route has changed none will: each host may have kept us waiting for minutes.

        Args:
            counted_for: as for `Opener.open`.
            waived: as for `_serve`.
        """
        failed: Verdict | None = None
        for at in range(start, len(ways)):
            peer = ways[at].peer
            if failed is not None and not waived and await self._has_changed():
                break
            try:
                return at, await self._tools.opener.open(ways[at], self._route, counted_for)
            except NoSession as error:
                verdict = classify.failure(error.error, error.step, peer, ways[at].policy.demand)
                if failed is None or verdict.stage is not Stage.MAIL or failed.stage is Stage.MAIL:
                    failed = verdict
                    self._peer, self._source, self._tls = peer, "", ""
        assert failed is not None, "called with no candidate left"
        return failed

    async def _waive(self, jobs: deque[Job], ways: list[Way]) -> None:
        """What the recipient's domain asks for cannot be had: go on without it where the sender has said so."""
        waived = [way._replace(policy=way.policy.waived()) for way in ways]
        if waived == ways:
            return
        insecure = [
            job for job in jobs if not job.loaded.batch.envelope.requiretls and waives_tls(self._beginning(job))
        ]
        if insecure:
            peer = self._peer
            for job in insecure:
                jobs.remove(job)
            await self._serve(deque(insecure), waived, 0, takes=False, waived=True)
            self._peer, self._source, self._tls = peer, "", ""

    def _beginning(self, job: Job) -> bytes:
        envelope = job.loaded.batch.envelope
        if job.loaded.body is not None:
            return job.loaded.body
        return self._tools.bodies.read_body(envelope.message, 0, 1) if envelope.chunks else b""

    def _give_up(self, jobs: deque[Job], failed: Verdict, *, takes: bool) -> None:
        """No host is left to be tried."""
        for job in jobs:
            job.fail(failed)
            self.report(job)
        jobs.clear()
        if takes:
            self._lane.unreachable(failed.reply, self._peer.host if failed.remote else "")

    def _give_back(self, jobs: deque[Job]) -> None:
        """Those that had no part in the failure are due again at once."""
        for job in [job for job in jobs if not job.tried]:
            jobs.remove(job)
            del self._open[job]
            self._lane.give_back(job.loaded)

    def _set_aside(self, jobs: deque[Job]) -> None:
        """The recipient's domain has come to ask for something else, and nothing more goes by what it asked for before:
        those that were tried keep what they have got, the others are due again at once."""
        self._give_back(jobs)
        words = f"{self._lane.destination} has come to ask for other encryption in the middle of the attempt"
        for job in jobs:
            job.complete(Verdict(Stage.ROUTING, reply(451, "4.4.0", words), remote=False))
            self.report(job)
        jobs.clear()

    async def _leave(self, connection: Connection) -> None:
        """Take leave of the peer."""
        self._connection = None
        self._lane.disconnected()
        await connection.quit()

    def _hand_over(self, connection: Connection) -> bool:
        """Give the place and the connection to who waits for them, if anybody does and it is of use to them. Only
        when nothing is left to do here."""
        if connection.client.exhausted or not self._tools.pool.hand_over(self._place, connection):
            return False
        self._connection = None
        self._handed_over = True
        self._lane.disconnected()
        return True

    def _place_of(self, connection: Connection) -> int | None:
        """Where the host of a connection that was handed to us is among ours. If it is not: the last one, since it is
        a host of the site all the same; but None where a policy is published, which may not vouch for it."""
        ways, peer = self._ways, connection.peer
        for at, way in enumerate(ways):
            if way.peer == peer:
                return at
        for at, way in enumerate(ways):
            if way.peer.host == peer.host and way.peer.port == peer.port:
                return at
        return None if any(way.policy.published for way in ways) else len(ways) - 1

    def _next_host(self, ways: list[Way], at: int) -> int:
        host = ways[at].host
        while at < len(ways) and ways[at].host == host:
            at += 1
        return at

    # --- for the session

    def take(self) -> Job | None:
        """The lane's next batch; none once the route is another."""
        if self._published:
            if self._outdated or (self._unasked >= _BATCHES_UNASKED and self._is_another()):
                return None
            self._unasked += 1
        loaded = self._lane.take_nowait()
        return None if loaded is None else self._opened(loaded)

    def _is_another(self) -> bool:
        """Whether the route is no longer what it was: what the recipient's domain publishes is to count for connections
        that stand, too. One that would have to be looked up may be another."""
        route = self._tools.router.known(self._lane.destination)
        self._outdated = route is None or route.identity != self._route.identity
        self._unasked = 0
        return self._outdated

    async def _has_changed(self) -> bool:
        """The same, before another connection is opened for what is in hand already; but what is no longer known is
        looked up: a host that has to be waited for is no reason not to try the next one."""
        if not self._published:
            return False
        try:
            route = await self._tools.route_to(self._lane.destination)
        except NoRoute:
            changed = True
        else:
            changed = (route.identity, route.authentic) != (self._route.identity, self._route.authentic)
        self._outdated = self._outdated or changed
        return changed

    def _opened(self, loaded: Loaded) -> Job:
        signer = self._tools.signer
        if signer is not None:
            signer.prepare(loaded)
            coming = self._lane.coming(loaded)
            if coming is not None:
                signer.prepare(coming, ahead=True)
        job = Job(loaded)
        self._open[job] = None
        return job

    async def wait(self) -> tuple[Job | None, bool]:
        """The lane's next batch; ends early if somebody else wants the connection, or the route is another."""
        pool, lane = self._tools.pool, self._lane
        if self._outdated:
            return None, False
        if not pool.rest(self._place, lane):
            return None, True
        try:
            loaded = await lane.take(self._tools.config.connection_idle_s)
        finally:
            wanted = pool.rise(self._place, lane)
        if loaded is None:
            return None, wanted
        if self._published and self._is_another():
            lane.give_back(loaded)
            return None, wanted
        if wanted:
            # Work came after all. Who called us gets a place of its own if there is one, else it waits on.
            pool.admit(self._place)
        return self._opened(loaded), False

    def report(self, job: Job) -> None:
        """To the lane."""
        del self._open[job]
        self._lane.report(job.loaded, Attempt(results_of(job), self._peer, self._site, self._source, self._tls))

    # --- the end

    def stop(self) -> None:
        """We were interrupted."""
        for job in list(self._open):
            if job.tried:
                job.complete(classify.stopped(dot_sent=job.dots > 0))
                self.report(job)
            elif not job.dots:
                del self._open[job]
                self._lane.give_back(job.loaded)

    def close(self) -> None:
        """Leave the place, if we still have it."""
        if self._connection is not None:
            self._connection.close()
        if not self._handed_over:
            self._tools.pool.release(self._place)


def results_of(job: Job) -> tuple[RecipientResult, ...]:
    """Of all its recipients."""
    results = tuple(job.results)
    assert None not in results, "a recipient has no result"
    return cast(tuple[RecipientResult, ...], results)
