"""Exim: Debian's package unpacked beside the system, set up as a relay for throughput.

Exim calls itself again by the path that it was compiled with, reads its config from another such path, and wants its
user to exist: in its room the unpacked package lies over /usr, and a folder with its config and user over /etc. `extra`
is the main section of the config beyond what is said here: {"remote_max_parallel": 4}.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postroika.bench.peers.adaptor import PeerOptions, Running
from postroika.bench.peers.packages import Unpacked
from postroika.bench.peers.ports import free_port
from postroika.bench.peers.program import Program, Room
from postroika.bench.peers.server import (
    HOST,
    Server,
    check_hop,
    count_files,
    missing_rights,
    prepare_directory,
    start,
    user_number,
    write_private_etc,
)
from postroika.bench.peers.tls import make_certificate
from postroika.errors import PostroikaError

_DURABLE = "# durable: it syncs both spool files of a message before it answers 250; this cannot be switched off\n"
_PROGRAM = Path("/usr/sbin/exim4")
_SPOOL = Path("/var/spool/exim4")
_USER = "Debian-exim"
# A number that Debian gives to nobody.
_USERS = {_USER: 65401}
_QUEUE_RUN = "5m"
# A queue runner a second until there are `queue_run_max`: then what was kept goes out over as many connections.
_QUEUE_RUN_AFTER_RELEASE = "1s"

_TRANSPORT = """
begin acl
begin routers
hop:
  driver = manualroute
  transport = hop
  route_list = * {host}
  self = send

begin transports
hop:
  driver = smtp
  port = {port}
  {tls}

begin retry
* * F,1h,10s; F,5d,5m
"""


class Exim:
    """The adaptor. Of `PeerOptions`, `connections` cannot hold here: Exim delivers each message in a process of its own
    as soon as it is there, over a connection of its own.
    """

    name = "exim"
    title = "Exim"
    load_needs: Mapping[str, Any] = {}

    def __init__(self, root: Path | None = None) -> None:
        # "light" lacks databases and content filters, which nobody asks for here.
        self._package = Unpacked(root, "exim4-daemon-light")

    def missing(self) -> str | None:
        """See `adaptor.Peer`."""
        if self._package.version is None:
            return "Exim is not here: postroika bench run --install"
        return rights and f"Exim {rights}" if (rights := missing_rights()) else None

    def install(self) -> None:
        """Unpack it."""
        self._package.unpack()

    def start(self, options: PeerOptions) -> Running:
        """See `adaptor.Peer`."""
        if (missing := self.missing()) is not None:
            raise PostroikaError(missing)
        directory = options.directory
        prepare_directory(directory)
        port = free_port()
        etc, spool, mount_points = directory / "etc", directory / "spool", directory / "mount-points"
        groups = write_private_etc(etc, _USERS, str(_SPOOL))
        for part in (etc / "exim4", spool, mount_points / _SPOOL.name):
            part.mkdir(parents=True, exist_ok=True)
        user, group = user_number(etc, _USER), groups[_USER]
        os.chown(spool, user, group)
        if options.tls:
            for file in make_certificate(etc / "exim4", "exim.test"):
                os.chown(file, user, group)
        running = _Running(
            title=self.title,
            version=self._package.version or "",
            settings=_DURABLE + _config(options, port, suspended=options.suspended),
            port=port,
            program=Program(
                _command(_QUEUE_RUN),
                log=directory / "start.log",
                directory=directory,
                room=Room(
                    overlays=(
                        ((self._package.path / "usr",), Path("/usr")),
                        ((etc,), Path("/etc")),
                        ((mount_points,), _SPOOL.parent),
                    ),
                    binds=((spool, _SPOOL),),
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
        self._spool = options.directory / "spool"

    def configure(self, *, suspended: bool) -> None:
        """Write its config file."""
        file = self._options.directory / "etc" / "exim4" / "exim4.conf"
        file.write_text(_config(self._options, self.port, suspended=suspended))
        file.chmod(0o644)  # Exim refuses one that others may write

    def queued(self) -> int:
        """Messages: each has one file with its envelope."""
        return count_files(self._spool / "input", "-H")

    def output(self) -> str:
        logs = [file.read_text(errors="replace")[-2000:] for file in sorted((self._spool / "log").glob("*log"))]
        return super().output() + "".join(logs)

    def release(self) -> None:
        """With another config, and with queue runners, which alone look at what was kept."""
        self.configure(suspended=False)
        self._program.command = _command(_QUEUE_RUN_AFTER_RELEASE)
        self.restart()


def _command(queue_run: str) -> list[str]:
    return [str(_PROGRAM), "-bdf", f"-q{queue_run}"]


def _config(options: PeerOptions, port: int, *, suspended: bool) -> str:
    host, hop_port = check_hop(options)
    main: dict[str, Any] = {
        "primary_hostname": "exim.test",
        "spool_directory": _SPOOL,
        "log_file_path": f"{_SPOOL}/log/%slog",
        "pid_file_path": f"{_SPOOL}/exim.pid",
        # Its name would be that of any other Exim on the machine.
        "notifier_socket": "",
        "local_interfaces": HOST,
        "daemon_smtp_ports": port,
        "disable_ipv6": "true",
        "keep_environment": "",
        # A relay for everyone on loopback, which asks nobody about anybody.
        "acl_smtp_rcpt": "accept",
        "acl_smtp_data": "accept",
        "host_lookup": "",
        "rfc1413_query_timeout": "0s",
        # No limits that guard against clients, and that no server here has.
        "smtp_accept_max": 0,
        "smtp_accept_max_per_connection": 0,
        "smtp_connect_backlog": 1000,
        "message_size_limit": "100M",
        # What comes is delivered at once, however much came over the connection; not in order; all recipients of a
        # message that have different hosts at the same time.
        "queue_only": "true" if suspended else "false",
        "smtp_accept_queue": 0,
        "smtp_accept_queue_per_connection": 0,
        "queue_run_in_order": "false",
        "queue_run_max": options.connections,
        "remote_max_parallel": options.connections,
        # Directories stay small; and a process that only relays need not become root, for which it would have to start
        # its program anew for each message.
        "split_spool_directory": "true",
        "deliver_drop_privilege": "true",
        "tls_advertise_hosts": "",
    }
    tls = "hosts_avoid_tls = *"
    if options.tls:
        main |= {
            "tls_advertise_hosts": "*",
            "tls_certificate": "/etc/exim4/certificate.pem",
            "tls_privatekey": "/etc/exim4/key.pem",
        }
        tls = "tls_try_verify_hosts ="
    main |= options.extra
    text = "".join(f"{key} = {value}\n" for key, value in main.items())
    return text + _TRANSPORT.format(host=host, port=hop_port, tls=tls)
