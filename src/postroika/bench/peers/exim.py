"""Exim: Debian's package unpacked beside the system, set up as a relay for throughput.

Exim calls itself again by the path that it was compiled with, reads its config from another such path, and wants its
user to exist, so it needs the room of `unpacked`. `extra` is the main section of the config beyond what is said here:
{"remote_max_parallel": 4}.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from postroika.bench.peers.adaptor import PeerOptions
from postroika.bench.peers.program import Program
from postroika.bench.peers.server import HOST, check_hop, count_files, user_number, write_private_etc
from postroika.bench.peers.tls import make_certificate
from postroika.bench.peers.unpacked import UnpackedPeer, UnpackedServer

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


class Exim(UnpackedPeer):
    """The adaptor. Of `PeerOptions`, `connections` cannot hold here: Exim delivers each message in a process of its own
    as soon as it is there, over a connection of its own.
    """

    name = "exim"
    title = "Exim"
    package = "exim4-daemon-light"  # "light" lacks databases and content filters, which nobody asks for here

    def make(self, options: PeerOptions, version: str, port: int) -> UnpackedServer:
        """See `UnpackedPeer`."""
        directory = options.directory
        etc, spool, mount_points = directory / "etc", directory / "spool", directory / "mount-points"
        groups = write_private_etc(etc, _USERS, str(_SPOOL))
        for part in (etc / "exim4", spool, mount_points / _SPOOL.name):
            part.mkdir(parents=True, exist_ok=True)
        user, group = user_number(etc, _USER), groups[_USER]
        os.chown(spool, user, group)
        if options.tls:
            for file in make_certificate(etc / "exim4", "exim.test"):
                os.chown(file, user, group)
        return _Running(
            title=self.title,
            version=version,
            options=options,
            config_file=etc / "exim4" / "exim4.conf",
            config=partial(_config, options, port),
            durable=_DURABLE,
            port=port,
            program=Program(
                _command(_QUEUE_RUN),
                log=directory / "start.log",
                directory=directory,
                room=self.room(etc, {_SPOOL.parent: mount_points}, binds=((spool, _SPOOL),)),
            ),
        )


class _Running(UnpackedServer):
    """A running one."""

    def queued(self) -> int:
        """Messages: each has one file with its envelope."""
        return count_files(self._directory / "spool" / "input", "-H")

    def output(self) -> str:
        logs = sorted((self._directory / "spool" / "log").glob("*log"))
        return super().output() + "".join(file.read_text(errors="replace")[-2000:] for file in logs)

    def release(self) -> None:
        """With queue runners, which alone look at what was kept."""
        self._program.command = _command(_QUEUE_RUN_AFTER_RELEASE)
        super().release()


def _command(queue_run: str) -> list[str]:
    return [str(_PROGRAM), "-bdf", f"-q{queue_run}"]


def _config(options: PeerOptions, port: int, suspended: bool) -> str:
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
