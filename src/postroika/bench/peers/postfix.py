"""Postfix: a private instance with its own config, queue and log, in its default, durable way.

It is the one of the system, or else a Debian package unpacked beside it. `extra` is main.cf beyond what is said here:
{"smtpd_recipient_limit": "100000"}.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postroika.bench.peers.adaptor import PeerOptions, Running
from postroika.bench.peers.packages import Unpacked
from postroika.bench.peers.ports import accepts, free_port
from postroika.bench.peers.program import Program, Room, run
from postroika.bench.peers.server import (
    HOST,
    Server,
    check_hop,
    count_files,
    missing_rights,
    prepare_directory,
    start,
    write_private_etc,
)
from postroika.bench.peers.signing import OpenDkim
from postroika.bench.peers.tls import make_certificate
from postroika.errors import PostroikaError

_DURABLE = "# durable: cleanup(8) syncs the queue file before smtpd(8) answers 250; this cannot be switched off\n"
_SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_QUEUES = ("incoming", "active", "deferred", "maildrop", "hold")
# Numbers that Debian gives to nobody.
_USERS = {"postfix": 65410, "postdrop": 65411}
_HOLD = "check_client_access static:hold"
_DEBIAN_DAEMONS = "/usr/lib/postfix/sbin"
_MANY_RECIPIENTS = "200000"

# How often qmgr(8) looks at the deferred messages, as in Debian's master.cf.
_WAKEUP_S = 300
# service type private unpriv chroot wakeup maxproc command: master(5). Nothing is chrooted, so that nothing has to be
# copied into the queue directory.
_MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n  -  n  60    1  pickup
cleanup   unix  n  -  n  -     0  cleanup
qmgr      unix  n  -  n  {wakeup_s} 1 qmgr
rewrite   unix  -  -  n  -     -  trivial-rewrite
bounce    unix  -  -  n  -     0  bounce
defer     unix  -  -  n  -     0  bounce
trace     unix  -  -  n  -     0  bounce
verify    unix  -  -  n  -     1  verify
flush     unix  n  -  n  1000? 0  flush
showq     unix  n  -  n  -     -  showq
proxymap  unix  -  -  n  -     -  proxymap
smtp      unix  -  -  n  -     -  smtp
relay     unix  -  -  n  -     -  smtp
error     unix  -  -  n  -     -  error
retry     unix  -  -  n  -     -  error
discard   unix  -  -  n  -     -  discard
anvil     unix  -  -  n  -     1  anvil
scache    unix  -  -  n  -     1  scache
tlsmgr    unix  -  -  n  1000? 1  tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """The adaptor.

    Args:
        root: where a package is unpacked that is not installed; None for the usual place.
        unpacked: use that one even if Postfix is installed.
    """

    name = "postfix"
    title = "Postfix"
    load_needs: Mapping[str, Any] = {}

    def __init__(self, root: Path | None = None, *, unpacked: bool = False) -> None:
        self._package = Unpacked(root, "postfix")
        self._installed = None if unpacked else shutil.which("postfix", path=_SEARCH)

    def missing(self) -> str | None:
        """See `adaptor.Peer`."""
        if self._installed is None and self._package.version is None:
            return "Postfix is not here: postroika bench run --install"
        return rights and f"Postfix {rights}" if (rights := missing_rights()) else None

    def install(self) -> None:
        """Unpack it, unless the system has one: to install it would push another mail server off the system."""
        if self._installed is None:
            self._package.unpack()

    def start(self, options: PeerOptions) -> Running:
        """See `adaptor.Peer`. Directories above that of `options` must let everyone through."""
        if (missing := self.missing()) is not None:
            raise PostroikaError(missing)
        directory = options.directory
        prepare_directory(directory)
        _check_passage(directory)
        (directory / "etc").mkdir(exist_ok=True)
        room = self._room(directory)
        port = free_port()
        version = self._package.version if self._installed is None else _installed_default("mail_version")
        dkim = OpenDkim(directory / "opendkim") if options.signed else None
        main_cf = _main_cf(options)
        if dkim is not None:
            main_cf |= {"smtpd_milters": f"inet:{HOST}:{dkim.port}", "milter_default_action": "tempfail"}
        (directory / "etc" / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in main_cf.items()))
        (directory / "etc" / "master.cf").write_text(master_cf(port))
        self._make_directories(directory, room)
        # With -d, master(8) stays in the foreground, and SIGTERM makes it end its children.
        command: list[str | Path] = [self._daemons() / "master", "-c", directory / "etc", "-d"]
        if dkim is not None:
            # What the first process leaves behind is ended after it, and its CPU time counts as well.
            command = ["sh", "-c", f'{shlex.join(dkim.command)} & exec "$0" "$@"', *command]
        program = Program(
            command,
            log=directory / "start.log",
            directory=directory,
            room=room,
        )
        settings = _DURABLE + "".join(f"{key} = {value}\n" for key, value in main_cf.items())
        return start(
            _Running(
                title=self.title,
                version=version or "",
                settings=settings,
                port=port,
                program=program,
                directory=directory,
                filter_port=None if dkim is None else dkim.port,
            )
        )

    def _daemons(self) -> Path:
        return Path(_DEBIAN_DAEMONS if self._installed is None else _installed_default("daemon_directory"))

    def _room(self, directory: Path) -> Room:
        if self._installed is not None:
            return Room()
        private_etc = directory / "etc-of-system"
        write_private_etc(private_etc, _USERS, str(directory / "queue"))
        return Room(
            overlays=(
                ((self._package.path / "usr",), Path("/usr")),
                ((private_etc, self._package.path / "etc"), Path("/etc")),
            )
        )

    def _make_directories(self, directory: Path, room: Room) -> None:
        for name in ("queue", "data"):
            (directory / name).mkdir(exist_ok=True)
        # The names are those of the room: a program there gives the directory away, and makes those of the queue.
        command = 'chown postfix: "$0/data" && exec postfix -c "$0/etc" check'
        check = Program(
            ["sh", "-c", command, directory],
            log=directory / "check.log",
            directory=directory,
            room=room,
            environment={**os.environ, "PATH": _SEARCH},
        )
        check.start()
        try:
            if check.wait(within_s=60) != 0:
                raise PostroikaError(f"Postfix does not like its configuration:\n{check.output()}")
        finally:
            check.end()


class _Running(Server):
    """A running one."""

    def __init__(self, *, directory: Path, filter_port: int | None, **how: Any) -> None:
        super().__init__(**how)
        self._directory = directory
        self._filter_port = filter_port

    def _ready(self) -> bool:
        return super()._ready() and (self._filter_port is None or accepts(HOST, self._filter_port))

    def queued(self) -> int:
        """Messages in all of its queues."""
        return sum(count_files(self._directory / "queue" / queue) for queue in _QUEUES)

    def output(self) -> str:
        log = self._directory / "postfix.log"
        return super().output() + (log.read_text(errors="replace")[-4000:] if log.exists() else "")

    def release(self) -> None:
        """Let go of what is on hold, and hold no more."""
        etc = self._directory / "etc"
        self._program.run(["postconf", "-c", etc, "-e", "smtpd_client_restrictions="])
        self._program.run(["postfix", "-c", etc, "reload"])
        self._program.run(["postsuper", "-c", etc, "-H", "ALL"])
        self._program.run(["postfix", "-c", etc, "flush"])


def _installed_default(name: str) -> str:
    postconf = shutil.which("postconf", path=_SEARCH) or "postconf"
    return run([postconf, "-d", "-h", name]).strip()


def _check_passage(directory: Path) -> None:
    """Postfix's own user has to get there."""
    for above in (directory, *directory.parents):
        if above.stat().st_mode & 0o001 == 0:
            raise PostroikaError(f"Postfix's user may not enter {above}: chmod a+x {above}, or choose another place")


def master_cf(port: int, *, wakeup_s: int = _WAKEUP_S) -> str:
    """Services of an instance that listens on a port and relays."""
    return _MASTER_CF.format(port=port, wakeup_s=wakeup_s)


def private_settings(directory: Path) -> dict[str, str]:
    """What of main.cf makes a private instance below a directory, which listens on loopback and needs no DNS."""
    return {
        "compatibility_level": "3.6",
        "queue_directory": f"{directory}/queue",
        "data_directory": f"{directory}/data",
        "maillog_file": f"{directory}/postfix.log",
        "maillog_file_prefixes": str(directory),
        "inet_interfaces": HOST,
        "inet_protocols": "ipv4",
        "myhostname": "postfix.test",
        "mydestination": "",
        "mynetworks": "127.0.0.0/8",
        "alias_maps": "",
        "alias_database": "",
        "local_recipient_maps": "",
        "local_transport": "error:no local delivery",
        "disable_dns_lookups": "yes",
        "smtp_host_lookup": "native",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        # Headers pass as they are: to rewrite those of local clients would be work that no other server here does.
        "local_header_rewrite_clients": "",
        # A limit that guards against clients, and that no server here has.
        "smtpd_client_connection_count_limit": "0",
        "message_size_limit": "104857600",
    }


def _main_cf(options: PeerOptions) -> dict[str, str]:
    directory = options.directory
    host, port = check_hop(options)
    main_cf = {
        **private_settings(directory),
        "relayhost": f"[{host}]:{port}",
        # Another such limit.
        "smtpd_recipient_limit": _MANY_RECIPIENTS,
        "default_destination_concurrency_limit": str(options.connections),
    }
    if options.processes is not None:
        main_cf["default_process_limit"] = str(options.processes)
    if options.suspended:
        # On hold is what costs it least: with defer_transports its queue manager would look at each message, and write
        # down why it waits, for another third of CPU.
        main_cf["smtpd_client_restrictions"] = _HOLD
    if options.tls:
        certificate, key = make_certificate(directory / "etc", "postfix.test")
        main_cf |= {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": str(certificate),
            "smtpd_tls_key_file": str(key),
            "smtp_tls_security_level": "may",
        }
    return main_cf | {key: str(value) for key, value in options.extra.items()}
