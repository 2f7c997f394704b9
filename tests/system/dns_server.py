"""Real name servers for the system tests: Knot is the authority for `test.`, Unbound resolves for its clients.

Promise: mail routed by `DnsServer.address` sees what it would see in the field: answers of a recursive resolver that
asks an authority over UDP and TCP, on loopback ports of their own, with no leftovers.

`broken.test` and all names below it are SERVFAIL: the authority is responsible for the zone and has no file for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from tests.system.process import Process, free_port, program, wait_until

HOST = "127.0.0.1"

_ZONE_HEAD = """\
$ORIGIN test.
$TTL 1
@ SOA ns admin 1 3600 600 86400 1
@ NS ns
ns A 127.0.0.1
"""

_KNOT = """\
server:
    listen: {host}@{port}
    rundir: "{directory}"
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    automatic-acl: off
database:
    storage: "{directory}/knot-db"
log:
  - target: stderr
    any: info
template:
  - id: default
    storage: "{directory}"
    journal-content: none
    semantic-checks: off
{policy}zone:
  - domain: test.
    file: test.zone
{options}  - domain: broken.test.
    file: no-such-file.zone
"""

# `test.` is a special-use name that Unbound denies unless told otherwise (RFC 6761 §6.2).
_UNBOUND = """\
server:
    directory: "{directory}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    do-daemonize: no
    num-threads: 1
    interface: {host}@{port}
    module-config: "iterator"
    do-not-query-localhost: no
    local-zone: "test." nodefault
    root-hints: ""
    infra-host-ttl: 1
    cache-max-negative-ttl: 1
    do-ip6: no
{more}remote-control:
    control-enable: no
stub-zone:
    name: "test."
    stub-addr: {host}@{authority_port}
"""


class DnsServer:
    """A running pair of name servers. `signed_dns` has another one, with DNSSEC.

    Args:
        zone: records of `test.`, in the form of a zone file; relative names are below `test.`, the TTL is 1 s.
        directory: where files and logs go.
    """

    def __init__(self, zone: str, directory: Path) -> None:
        self._directory = directory
        self._knot = program("knotd", "knot")
        self._unbound = program("unbound", "unbound")
        self._ports = free_port(HOST), free_port(HOST)
        self._running = ExitStack()
        self.authority = f"{HOST}:{self._ports[0]}"
        self.address = f"{HOST}:{self._ports[1]}"
        self.start(zone)

    def start(self, zone: str) -> None:
        """Serve `zone` on the same ports as ever, with empty caches; what ran before is stopped."""
        self.stop()
        directory, (authority_port, port) = self._directory, self._ports
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "test.zone").write_text(_ZONE_HEAD + zone)
        knot, unbound = directory / "knot.conf", directory / "unbound.conf"
        policy, options, zones = self.knot_config()
        text = _KNOT.format(host=HOST, port=authority_port, directory=directory, policy=policy, options=options)
        knot.write_text(text + zones)
        log = directory / "knot.log"
        process = self._running.enter_context(Process([self._knot, "-c", knot], log=log))
        self._wait_answering(process, authority_port)
        more, zones = self.unbound_config(authority_port)
        text = _UNBOUND.format(host=HOST, port=port, authority_port=authority_port, directory=directory, more=more)
        unbound.write_text(text + zones)
        log = directory / "unbound.log"
        process = self._running.enter_context(Process([self._unbound, "-d", "-c", unbound], log=log))
        self._wait_answering(process, port)

    def knot_config(self) -> tuple[str, str, str]:
        """What else the authority is told: sections before the zones, options of `test.`, more zones."""
        return "", "", ""

    def unbound_config(self, authority_port: int) -> tuple[str, str]:
        """What else the resolver is told when the authority runs: options, more zones."""
        del authority_port
        return "", ""

    def stop(self) -> None:
        """End both; their ports stay reserved in name only, so `start` finds them free or fails."""
        self._running.close()

    def _wait_answering(self, process: Process, port: int) -> None:
        """Until the zone is loaded and served."""
        query = dns.message.make_query("test.", dns.rdatatype.SOA)

        def ready() -> bool:
            if process.returncode is not None:
                pytest.fail(f"{process.command[0]} ended with {process.returncode}:\n{process.output()}")
            try:
                response = dns.query.udp(query, HOST, port=port, timeout=0.1)
            except (dns.exception.Timeout, OSError):
                return False
            return response.rcode() == dns.rcode.NOERROR and bool(response.answer)

        wait_until(ready, f"{process.command[0]} on {HOST}:{port}")


@pytest.fixture
def dns_server(tmp_path: Path) -> Iterator[Callable[[str], DnsServer]]:
    """Starts a DnsServer for a zone text."""
    with ExitStack() as servers:

        def start(zone: str) -> DnsServer:
            server = DnsServer(zone, tmp_path / "dns")
            servers.callback(server.stop)
            return server

        yield start
