"""Who may send where: the one rule that keeps us from being an open relay.

Promise: a stranger (not in [relay] networks, and not logged in) gets mail in only for [relay] domains, whatever the
syntax of the address. Addresses are compared in the canonical form that also routes them (`mail.address`), and a local
part in which some other mail system could read a second destination (`a%b@ours`, `b!a@ours`, `"a@b"@ours`) is refused
from strangers, as Postfix does (`allow_untrusted_routing = no`). Trusted networks and accounts may use any address.

Source routes are taken off by the grammar, so `<@ours:a@elsewhere>` is judged as `a@elsewhere`. `<postmaster>` and
postmaster at our own address literal mean postmaster@server.hostname (RFC 5321 §4.5.1). We have no mailboxes, so
that one, too, is taken from strangers only if the host name is among [relay] domains.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterable, Sequence

from postroika.mail.address import canonical_domain, is_literal, literal_ip, routing_domain
from postroika.mail.reply import Reply, reply
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client
from postroika.smtp.server_events import Rcpt

DENIED = reply(550, "5.7.1", "relay access denied")
ROUTED = reply(550, "5.7.1", "relay access denied: the local part names a route")
_ROUTING_CHARACTERS = frozenset("%!@")


def canonical_ip(text: str) -> str:
    """An address as sockets give it, without scope, and as IPv4 where it is IPv4 mapped into IPv6."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


class Domains:
    """A set of domains: exact names, ".example" for all below example, "*" for all, literals in brackets."""

    __slots__ = ("_all", "_exact", "_parents")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._all = False
        exact: set[str] = set()
        parents: set[str] = set()
        for pattern in patterns:
            if pattern == "*":
                self._all = True
            elif pattern.startswith("."):
                parents.add(canonical_domain(pattern[1:]))
            else:
                exact.add(canonical_domain(pattern))
        self._exact = frozenset(exact)
        self._parents = frozenset(parents)

    def __contains__(self, domain: str) -> bool:
        """Whether `domain`, in canonical form, is one of them."""
        if domain in self._exact or self._all:
            return True
        if not self._parents or is_literal(domain):
            return False
        dot = domain.find(".")
        while dot >= 0:
            if domain[dot + 1 :] in self._parents:
                return True
            dot = domain.find(".", dot + 1)
        return False


class RelayPolicy:
    """The rule as a hook for the stage "rcpt".

    Args:
        networks: CIDR; who may relay to anywhere.
        domains: [relay] domains.
        hostname: ours, where <postmaster> belongs.

    Raises:
        ValueError: a network or a domain is none.
    """

    __slots__ = ("_domains", "_hostname", "_networks")

    def __init__(self, networks: Sequence[str], domains: Sequence[str], hostname: str) -> None:
        self._networks = Networks(networks)
        self._domains = Domains(domains)
        self._hostname = canonical_domain(hostname)

    def trusts(self, ip: str) -> bool:
        """Whether the client at `ip` (canonical) may relay."""
        return ip in self._networks

    def mailbox(self, rcpt: Rcpt, local_ip: str) -> str:
        """The address to deliver to: that of `rcpt`, or postmaster's at our name."""
        if not rcpt.domain:
            return f"{rcpt.local}@{self._hostname}"
        if (
            rcpt.domain[0] == "["
            and local_ip
            and rcpt.local.lower() == "postmaster"
            and literal_ip(rcpt.domain) == local_ip
        ):
            return f"{rcpt.local}@{self._hostname}"
        return rcpt.address

    def __call__(self, client: Client, rcpt: Rcpt) -> Reply | None:
        """550 to strangers who want to get somewhere else."""
        if client.trusted or client.account:
            return None
        if routing_domain(self.mailbox(rcpt, client.local_ip)) not in self._domains:
            return DENIED
        # A mail system that normalises local parts would make the same of their full-width and small forms.
        local = rcpt.local if rcpt.local.isascii() else unicodedata.normalize("NFKC", rcpt.local)
        if not _ROUTING_CHARACTERS.isdisjoint(local):
            return ROUTED
        return None
