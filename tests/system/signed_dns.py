"""Real name servers with DNSSEC: Knot signs `test.`, and Unbound validates with its key as the only trust anchor.

Below `test.` there are, each with records of the test's own:

- `plain.test`: delegated without a DS record, so that all in it is insecure;
- `bogus.test`: delegated with a DS record for a key that it does not have, so that all in it is SERVFAIL to us;
- `silent.test`: its name server says nothing, so that questions end in timeouts;
- `broken.test`: SERVFAIL already from the authority.
"""

from __future__ import annotations

import socket
from pathlib import Path

from tests.system.dns_server import HOST, DnsServer
from tests.system.process import program, run

_DELEGATIONS = """
plain      NS ns.plain
ns.plain   A 127.0.0.1
bogus      NS ns.bogus
ns.bogus   A 127.0.0.1
bogus      DS 12345 13 2 0000000000000000000000000000000000000000000000000000000000000000
silent     NS ns.silent
ns.silent  A 127.0.0.1
"""
_ZONE_HEAD = """\
$ORIGIN {name}.
$TTL 1
@ SOA ns admin 1 3600 600 86400 1
@ NS ns
ns A 127.0.0.1
"""
_POLICY = """\
policy:
  - id: own
    algorithm: ecdsap256sha256
    single-type-signing: on
"""
_OPTIONS = """\
    dnssec-signing: on
    dnssec-policy: own
    zonefile-sync: -1
    zonefile-load: whole
"""
_ZONES = """\
  - domain: plain.test.
    file: plain.zone
  - domain: bogus.test.
    file: bogus.zone
"""
_VALIDATE = """\
    module-config: "validator iterator"
    trust-anchor: "{anchor}"
    val-bogus-ttl: 1
    cache-max-ttl: 2
"""
_STUBS = """\
stub-zone:
    name: "plain.test."
    stub-addr: {host}@{authority_port}
stub-zone:
    name: "bogus.test."
    stub-addr: {host}@{authority_port}
stub-zone:
    name: "silent.test."
    stub-addr: {host}@{silent_port}
"""


class SignedDns(DnsServer):
    """A running pair of name servers, of which the second one validates.

    Args:
        zone: records of `test.`, as for `DnsServer`.
        plain, bogus: those of the zones of these names, relative to them.
        directory: where files and logs go.
    """

    def __init__(self, zone: str, directory: Path, *, plain: str = "", bogus: str = "") -> None:
        self._place = directory
        self._zones = {"plain": plain, "bogus": bogus}
        self._silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._silent.bind((HOST, 0))
        super().__init__(zone + _DELEGATIONS, directory)

    def close(self) -> None:
        """End both, for good."""
        self.stop()
        self._silent.close()

    def knot_config(self) -> tuple[str, str, str]:
        (self._place / "knot-db").mkdir(exist_ok=True)
        for name, records in self._zones.items():
            (self._place / f"{name}.zone").write_text(_ZONE_HEAD.format(name=f"{name}.test") + records)
        return _POLICY, _OPTIONS, _ZONES

    def unbound_config(self, authority_port: int) -> tuple[str, str]:
        command = [program("keymgr", "knot"), "-c", self._place / "knot.conf", "test.", "ds"]
        anchors = run(command, within_s=30).stdout.splitlines()
        (anchor,) = [line for line in anchors if line.split()[1:2] == ["DS"] and line.split()[4] == "2"]
        silent_port = self._silent.getsockname()[1]
        stubs = _STUBS.format(host=HOST, authority_port=authority_port, silent_port=silent_port)
        return _VALIDATE.format(anchor=anchor), stubs
