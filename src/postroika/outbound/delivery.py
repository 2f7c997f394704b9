"""One lane from its first batch to its last: routes, hosts in order, connections.

Promise: every batch that a lane gives is reported exactly once, or given back untried; but for one whose final dot was
sent when the process was told to stop, which nobody can speak for. A recipient that was refused with 5xx is not tried
at another host, nor is a message whose final dot was sent.

How: `Deliverer.deliver` runs in a strand of the queue's. It takes a place at the site, opens a connection to the first
host that will have one, and lets a `Session` work there. What hosts deferred is then tried at the next one. Batches
that lost their connection through no fault of their own go on with a fresh one, uncounted. A batch whose sender wants
other encryption than is the rule there (REQUIRETLS, TLS-Required: No) gets a connection of its own.
"""

from __future__ import annotations

from postroika.mail.outcome import Attempt, Stage
from postroika.outbound.contract import Lane
from postroika.outbound.job import Job
from postroika.outbound.tools import Tools
from postroika.outbound.turn import Turn, results_of
from postroika.pump import breathe
from postroika.routing.router import NoRoute, Route
from postroika.smtp.client_transaction import Verdict


class Deliverer(Tools):
    """Delivers what lanes hold. One for each worker."""

    async def deliver(self, lane: Lane) -> None:
        """Deliver what `lane` gives, until it gives nothing more.

        Interruption: batches of which no final dot was sent are given back; the others get no report, unless some of
        their recipients have a result already.
        """
        while await self._turn(lane):
            pass

    async def _turn(self, lane: Lane) -> bool:
        """Take a place at the site and use it for one connection, or as many as the batches in hand need. Whether to
        go on; in between others may have their turn."""
        try:
            route = await self.route_to(lane.destination)
        except NoRoute as none:
            await self._no_route(lane, none)
            return False
        place = _place(route)
        if self.pool.is_full(place):
            lane.pause()
        warm = await self.pool.acquire(place)
        turn = Turn(self, lane, route, place, warm)
        try:
            await lane.resume()
            if route.published:
                # What the domain asks for may have come to be known while we waited. The place remains what it is, the
                # connection is used only if it is still of use.
                try:
                    route = await self.route_to(lane.destination)
                except NoRoute as gone:
                    await self._no_route(lane, gone)
                    return False
                turn = Turn(self, lane, route, place, warm)
            return await turn.run()
        except BaseException as error:
            if not isinstance(error, Exception):
                turn.stop()
            raise
        finally:
            turn.close()

    async def _no_route(self, lane: Lane, error: NoRoute) -> None:
        verdict = Verdict(Stage.ROUTING, error.reply, remote=False)
        while (loaded := lane.take_nowait()) is not None:
            job = Job(loaded)
            job.fail(verdict)
            lane.report(loaded, Attempt(results_of(job)))
            if not error.permanent:
                lane.unreachable(error.reply, "")
                return
            await breathe()


def _place(route: Route) -> str:
    """Under which name connections are shared: never by those who must not have the same."""
    identity = route.identity
    return f"{route.site} ({identity})" if identity else route.site
