"""OpenSMTPD: Debian's package unpacked beside the system, made durable by the file system.

Its paths are compiled in and it wants its users, so it needs the room of `unpacked`, with its own directories over
parts of /var. It never syncs what it accepts, so its spool has the attributes S and D (chattr(1)), with which the file
system itself writes everything through; without them its 250 would promise nothing. `extra` is smtpd.conf beyond what
is said here: {"queue ttl": "1d"}.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from postroika.bench.peers.adaptor import PeerOptions
from postroika.bench.peers.program import Program, run
from postroika.bench.peers.server import HOST, check_hop, write_private_etc
from postroika.bench.peers.unpacked import UnpackedPeer, UnpackedServer
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


class OpenSmtpd(UnpackedPeer):
    """The adaptor."""

    name = "opensmtpd"
    title = "OpenSMTPD"
    package = "opensmtpd"
    load_needs: Mapping[str, Any] = {"pipelining": False}

    def make(self, options: PeerOptions, version: str, port: int) -> UnpackedServer:
        """See `UnpackedPeer`."""
        if options.tls:
            raise PostroikaError("OpenSMTPD is not set up for TLS: Debian's 6.8 fails to shake hands with OpenSSL 3")
        directory = options.directory
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
        return _Running(
            title=self.title,
            version=version,
            options=options,
            config_file=etc / "smtpd.conf",
            config=partial(_config, options, port),
            durable=_DURABLE,
            port=port,
            program=Program(
                ["/usr/sbin/smtpd", "-d"],  # in the foreground, with its log on stderr
                log=directory / "server.log",
                directory=directory,
                room=self.room(
                    etc,
                    {_SPOOL.parent: mount_points / "spool", Path("/var/lib"): mount_points / "lib"},
                    binds=((spool, _SPOOL),),
                    hidden=(Path("/run"),),
                ),
            ),
        )


class _Running(UnpackedServer):
    """A running one."""

    def queued(self) -> int:
        """Messages: each has a directory of its own."""
        return sum(1 for _ in self._directory.glob("spool/queue/*/*"))


def _config(options: PeerOptions, port: int, suspended: bool) -> str:
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
