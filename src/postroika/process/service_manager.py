"""Tells a service manager how we are: ready, reloading, stopping, alive.

Promise: without one nothing happens; with one that does not listen nothing happens either, but for a line in the log.
Programs that we start do not speak to it in our place.

Source: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5). The whole protocol is one datagram of KEY=VALUE lines
to the Unix socket that NOTIFY_SOCKET names; a name that begins with "@" is one in the abstract namespace (unix(7)).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 1.0  # it is a program on this machine that does hardly anything else


class ServiceManager:
    """The one that started us, or none.

    Args:
        address: of its socket, as NOTIFY_SOCKET has it; "" = none.
        watchdog_s: it ends us unless it hears that we are alive this often; 0 = it does not watch.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else 0.0

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """As the environment says, from which it is taken: who inherits the rest must not speak in our name."""
        address = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        watched = environment.pop("WATCHDOG_PID", "")
        if address and address[0] not in "/@":
            log.warning("NOTIFY_SOCKET=%s is of a kind that is not known; the service manager is told nothing", address)
            address = ""
        for_us = not watched or watched == str(os.getpid())
        return cls(address, int(watchdog_us) / 1e6 if for_us and watchdog_us.isdecimal() else 0.0)

    def ready(self, status: str) -> None:
        """Mail is accepted; also the end of `reloading`."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Files are opened anew."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """What is under way is finished, nothing new is taken."""
        self._tell("STOPPING=1", "STATUS=Finishing what is under way")

    def alive(self) -> None:
        """All is well; to be said more often than every `watchdog_s`."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_SEND_TIMEOUT_S)
            try:
                sender.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                log.warning("the service manager cannot be told %s: %s", lines[0], error.strerror or error)
