"""Servers from a Debian package that is unpacked beside the system: what their adaptors share.

In the room of such a server (see `program`) the package lies over /usr, and a folder with its config and users over
/etc, where the paths that were compiled in lead. It has one config file, which says whether it delivers, and which it
reads when it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from postroika.bench.peers.adaptor import PeerOptions, Running
from postroika.bench.peers.packages import Unpacked
from postroika.bench.peers.ports import free_port
from postroika.bench.peers.program import Room
from postroika.bench.peers.server import Server, missing_rights, prepare_directory, start
from postroika.errors import PostroikaError


class UnpackedServer(Server):
    """A running one; its adaptor adds `queued`.

    Args:
        options: what it was started with.
        config_file: where it finds its config.
        config: the text of that; told whether it is suspended.
        durable: how it makes a message durable, as comments for the report.
    """

    def __init__(
        self, *, options: PeerOptions, config_file: Path, config: Callable[[bool], str], durable: str, **how: Any
    ) -> None:
        super().__init__(settings=durable + config(options.suspended), **how)
        self._directory = options.directory
        self._config_file = config_file
        self._config = config
        self._configure(options.suspended)

    def release(self) -> None:
        """With another config, which it reads when it starts."""
        self._configure(False)
        self.restart()

    def _configure(self, suspended: bool) -> None:
        self._config_file.write_text(self._config(suspended))
        self._config_file.chmod(0o644)  # servers refuse one that others may write


class UnpackedPeer:
    """An adaptor; those of servers add `make`.

    Args:
        root: where the package is unpacked; None for the usual place.
    """

    name = ""
    title = ""
    package = ""
    load_needs: Mapping[str, Any] = {}

    def __init__(self, root: Path | None = None) -> None:
        self._package = Unpacked(root, self.package)

    def missing(self) -> str | None:
        """See `adaptor.Peer`."""
        if self._package.version is None:
            return f"{self.title} is not here: postroika bench run --install"
        return rights and f"{self.title} {rights}" if (rights := missing_rights()) else None

    def install(self) -> None:
        """Unpack it."""
        self._package.unpack()

    def start(self, options: PeerOptions) -> Running:
        """See `adaptor.Peer`."""
        if (missing := self.missing()) is not None:
            raise PostroikaError(missing)
        if options.signed:
            raise PostroikaError(f"{self.title} is not set up to sign")
        prepare_directory(options.directory)
        return start(self.make(options, self._package.version or "", free_port()))

    def make(self, options: PeerOptions, version: str, port: int) -> UnpackedServer:
        """Make its directories and its config; it does not run yet."""
        raise NotImplementedError

    def room(self, etc: Path, over: Mapping[Path, Path], **more: Any) -> Room:
        """Its room.

        Args:
            etc: the folder that lies over /etc.
            over: those that lie over other places, by place.
            more: as for Room.
        """
        overlays = {Path("/usr"): self._package.path / "usr", Path("/etc"): etc, **over}
        return Room(overlays=tuple(((folder,), place) for place, folder in overlays.items()), **more)
