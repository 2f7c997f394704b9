"""OpenSMTPD: Debian's package unpacked beside the system, made durable by the file system.

Its paths are compiled in and it wants its users: in its room the unpacked package lies over /usr, a folder with config
and users over /etc, and its own directories over parts of /var. It never syncs what it accepts, so its spool has the
attributes S and D (chattr(1)), with which the file system itself writes everything through; without them its 250 would
promise nothing. `extra` is smtpd.conf beyond what is said here: {"queue ttl": "1d"}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postroika.bench.peers.adaptor import PeerOptions, Running
from postroika.bench.peers.packages import Unpacked
from postroika.bench.peers.ports import free_port
from postroika.bench.peers.program import Program, Room, run
from postroika.bench.peers.server import (
    HOST,
    Server,
    check_hop,
    missing_rights,
    prepare_directory,
    start,
    write_private_etc,
)
from postroika.errors import PostroikaError

_DURABLE = """\
# durable: it syncs nothing by itself, so its spool has the attributes S and D (chattr(1)): every write to a file and
# every change of a directory there is on the disk before the call returns
# its listen backlog of 5 is compiled in: of many clients that connect at once, some wait for seconds (SYN is repeated)
"""
_SPOOL = Path("/var/spool/smtpd")
_EMPTY = Path("/var/lib/opensmtpd/empty")
_HOSTNAME = "opensmtpd.test"
# Numbers that Debian gives to nobody.
_USERS = {"opensmtpd": 65402, "opensmtpq": 65403}
_MANY = 1_000_000
_MAX_INFLIGHT = 20_000


class OpenSmtpd:
    """The adaptor."""

    name = "opensmtpd"
    title = "OpenSMTPD"
    load_needs: Mapping[str, Any] = {"pipelining": False}

    def __init__(self, root: Path | None = None) -> None:
        self._package = Unpacked(root, "opensmtpd")

    def missing(self) -> str | None:
        """See `adaptor.Peer`."""
        if self._package.version is None:
            return "OpenSMTPD is not here: postroika bench run --install"
        return rights and f"OpenSMTPD {rights}" if (rights := missing_rights()) else None

    def install(self) -> None:
        """Unpack it."""
        self._package.unpack()

    def start(self, options: PeerOptions) -> Running:
        """See `adaptor.Peer`."""
        if (missing := self.missing()) is not None:
            raise PostroikaError(missing)
        if options.tls:
            raise PostroikaError("OpenSMTPD is not set up for TLS: Debian's 6.8 fails to shake hands with OpenSSL 3")
        directory = options.directory
        prepare_directory(directory)
        port = free_port()
        etc, spool, mount_points = directory / "etc", directory / "spool", directory / "mount-points"
        write_private_etc(etc, _USERS, str(_EMPTY))
        for part in (
            spool,
            mount_points / "spool" / _SPOOL.name,
            mount_points / "lib" / _EMPTY.relative_to("/var/lib"),
        ):
            part.mkdir(parents=True, exist_ok=True)
        spool.chmod(0o711)
        run(["chattr", "+S", "+D", spool])
        (etc / "mailname").write_text(f"{_HOSTNAME}\n")
        # It looks up each client; without DNS, let it not wait for one.
        (etc / "resolv.conf").write_text("lookup file\n")
        (etc / "hosts").write_text(f"{HOST} localhost {_HOSTNAME}\n")
        running = _Running(
            title=self.title,
            version=self._package.version or "",
            settings=_DURABLE + _config(options, port, suspended=options.suspended),
            port=port,
            program=Program(
                ["/usr/sbin/smtpd", "-d"],  # in the foreground, with its log on stderr
                log=directory / "server.log",
                directory=directory,
                room=Room(
                    overlays=(
                        ((self._package.path / "usr",), Path("/usr")),
                        ((etc,), Path("/etc")),
                        ((mount_points / "spool",), _SPOOL.parent),
                        ((mount_points / "lib",), Path("/var/lib")),
                    ),
                    binds=((spool, _SPOOL),),
                    hidden=(Path("/run"),),
                ),
            ),
            options=options,
        )
        running.configure(suspended=options.suspended)
        start(running)
        return running


class _Running(Server):
    """A running one."""

    def __init__(self, *, options: PeerOptions, **how: Any) -> None:
        super().__init__(**how)
        self._options = options

    def configure(self, *, suspended: bool) -> None:
        """Write its config file."""
        file = self._options.directory / "etc" / "smtpd.conf"
        file.write_text(_config(self._options, self.port, suspended=suspended))
        file.chmod(0o644)  # it refuses one that others may write

    def queued(self) -> int:
        """Messages: each has a directory of its own."""
        return sum(1 for _ in self._options.directory.glob("spool/queue/*/*"))

    def release(self) -> None:
        """With another config, which it reads when it starts."""
        self.configure(suspended=False)
        self.restart()


def _config(options: PeerOptions, port: int, *, suspended: bool) -> str:
    host, hop_port = check_hop(options)
    limits: dict[str, int] = {
        **dict.fromkeys(
            (f"max-conn-per-{what}" for what in ("host", "route", "source", "connector", "relay", "domain")),
            options.connections,
        ),
        # By default it waits seconds between two connections to a host.
        **dict.fromkeys(
            (f"conn-delay-{what}" for what in ("host", "route", "source", "connector", "relay", "domain")), 0
        ),
        "reconn-delay-route": 0,
        "session-transaction-delay": 0,
        "session-mail-max": 1000,
        "task-hiwat": 5000,
        "task-lowat": 2500,
        "task-release": 2500,
    }
    listen = f"listen on {HOST} port {port} hostname {_HOSTNAME}"
    lines = [
        "smtp max-message-size 100M",
        f"smtp limit max-mails {_MANY}",
        f"smtp limit max-rcpt {_MANY}",
        f"mta max-deferred {_MANY}",
        "mta limit " + " ".join(f"{key} {value}" for key, value in limits.items()),
        # None at a time: the same as smtpctl pause, which cannot be said before it starts.
        f"scheduler limit max-inflight {0 if suspended else _MAX_INFLIGHT}",
    ]
    lines += [
        *(f"{key} {value}" for key, value in options.extra.items()),
        listen,
        f'action out relay host "smtp+notls://{host}:{hop_port}"',
        "match from any for any action out",
    ]
    return "\n".join(lines) + "\n"
