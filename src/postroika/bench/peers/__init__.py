"""The servers that are compared: how each is installed, configured for durable relaying, started and stopped.

Promise: an adaptor touches neither the system's own configuration nor its mail; what it starts listens on loopback,
keeps everything below one directory, syncs every message before it answers 250, and is gone when it is stopped.

One small file for each server, with a class that is a `Peer`; `server.Server` has what they share, and `room` lets a
server that Debian allows only one of on a machine run beside the others. How to add one is told in docs/bench.md.
"""

from __future__ import annotations

from pathlib import Path

from postroika.bench.peers.adaptor import Peer, PeerOptions, Running
from postroika.bench.peers.ports import free_port
from postroika.errors import PostroikaError

__all__ = ["NAMES", "Peer", "PeerOptions", "Running", "free_port", "peer", "peers"]

NAMES = ("postroika", "postfix", "exim", "opensmtpd")
"""All adaptors, in the order in which they are shown."""


def peers(root: Path | None = None) -> dict[str, Peer]:
    """All adaptors by name.

    Args:
        root: where packages are unpacked that cannot be installed; None for the usual place (`packages.default_root`).
    """
    return {name: peer(name, root) for name in NAMES}


def peer(name: str, root: Path | None = None) -> Peer:
    """One adaptor.

    Raises:
        PostroikaError: there is none of that name.
    """
    # Imported when it is asked for: `postroika bench load` needs none of them.
    match name:
        case "postroika":
            from postroika.bench.peers.postroika import Postroika

            return Postroika()
        case "postfix":
            from postroika.bench.peers.postfix import Postfix

            return Postfix(root)
        case "exim":
            from postroika.bench.peers.exim import Exim

            return Exim(root)
        case "opensmtpd":
            from postroika.bench.peers.opensmtpd import OpenSmtpd

            return OpenSmtpd(root)
    raise PostroikaError(f"there is no server {name!r}; there are {', '.join(NAMES)}")
