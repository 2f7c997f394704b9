"""Debian packages beside the system: fetched and unpacked into a folder of the harness, installed nowhere.

Promise: nothing outside that folder changes, and nothing is started. That is how mail servers which Debian allows only
one of on a machine are had side by side. A folder appears when it is complete. What a package needs and the system does
not have is unpacked with it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from postroika.bench.peers.program import run
from postroika.errors import PostroikaError

_RECORD = "packages.txt"
_TO_INSTALL = re.compile(r"^Inst (\S+)", re.MULTILINE)
_DEB_NAME = re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+)_[^_]+\.deb")
_APT_S = 300.0


def default_root() -> Path:
    """Where folders are kept: POSTROIKA_PEERS, or a cache directory of the system or of the user."""
    named = os.environ.get("POSTROIKA_PEERS")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/cache/postroika/peers")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "postroika" / "peers"


class Unpacked:
    """A package with what it needs, unpacked below `root`; there or not yet.

    Args:
        root: None for the usual place.
        package: its name in Debian.
    """

    def __init__(self, root: Path | None, package: str) -> None:
        self.package = package
        self.path = (root or default_root()) / package

    @property
    def version(self) -> str | None:
        """Of the package, without what Debian adds; None: it is not there."""
        try:
            record = (self.path / _RECORD).read_text()
        except OSError:
            return None
        for line in record.splitlines():
            name, _, version = line.partition(" ")
            if name == self.package:
                return version.rpartition(":")[2].partition("-")[0]
        return None

    def unpack(self) -> None:
        """Fetch and unpack it, unless it is there.

        Raises:
            PostroikaError: that cannot be done here.
        """
        if self.version is not None:
            return
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise PostroikaError(f"{self.package} is unpacked by Debian's apt-get and dpkg-deb, which are not here")
        if os.geteuid() != 0:
            raise PostroikaError(f"{self.package} keeps its owners and modes only when root unpacks it")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # There may be programs in it that run as root whoever starts them: nobody but root gets at them here.
        self.path.parent.chmod(0o700)
        with tempfile.TemporaryDirectory(prefix=f".{self.package}-", dir=self.path.parent) as work:
            part = Path(work, "part")
            part.mkdir()
            debs = self._fetch(Path(work))
            for deb in debs:
                run(["dpkg-deb", "--extract", deb, part], within_s=_APT_S)
            (part / _RECORD).write_text("".join(f"{_describe(deb)}\n" for deb in debs))
            part.chmod(0o755)
            part.rename(self.path)

    def _fetch(self, directory: Path) -> list[Path]:
        try:
            self._download(directory)
        except PostroikaError:
            # The package lists of a fresh machine or container are empty or old.
            run(["apt-get", "update"], within_s=_APT_S)
            self._download(directory)
        return sorted(directory.glob("*.deb"))

    def _download(self, directory: Path) -> None:
        # A simulation: what would have to be installed beside the package; that it would also remove another mail
        # server does not matter.
        plan = run(["apt-get", "--simulate", "install", "--no-install-recommends", self.package], within_s=_APT_S)
        wanted = {self.package, *_TO_INSTALL.findall(plan)}
        run(["apt-get", "download", *sorted(wanted)], directory=directory, within_s=_APT_S)


def _describe(deb: Path) -> str:
    found = _DEB_NAME.fullmatch(deb.name)
    return f"{found['name']} {found['version'].replace('%3a', ':')}" if found else deb.name
