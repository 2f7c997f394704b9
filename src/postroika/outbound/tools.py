"""What all deliveries of one worker share: settings, next hops, the store, connections, signatures."""

from __future__ import annotations

from postroika.config import Config
from postroika.outbound.connection import Connection
from postroika.outbound.contract import Bodies, InFlightTable, Router, Signer
from postroika.outbound.opening import Opener
from postroika.outbound.pool import SitePool
from postroika.outbound.reported import Recorder
from postroika.pump import in_task
from postroika.routing.router import Route


class Tools:
    """What all lanes of a worker deliver with.

    Args:
        config: `delivery`, `server.hostname`, and what the routes log in with.
        router: names the next hops.
        bodies: the store.
        in_flight: the table that outlives a crash.
        signer: signs what goes out, if anything is signed.
        recorder: counts sessions for TLS reports, if there are any.

    Raises:
        PostroikaError: a file with a password or a certificate cannot be used.
    """

    def __init__(
        self,
        config: Config,
        router: Router,
        bodies: Bodies,
        in_flight: InFlightTable,
        signer: Signer | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.config = config.delivery
        self.opener = Opener(config, recorder)
        self.router = router
        self.bodies = bodies
        self.in_flight = in_flight
        self.signer = signer
        self.pool: SitePool[Connection] = SitePool(config.delivery.max_connections_per_site)

    async def route_to(self, destination: str) -> Route:
        """Where mail for a destination goes now.

        Raises:
            NoRoute: nowhere.
        """
        route = self.router.known(destination)
        return await in_task(self.router.route, destination) if route is None else route
