"""Whether the domain of a reverse-path can take the notifications that we may have to send there.

Promise: mail is refused for good only if the DNS has said that the domain has neither MX nor address, or that it takes
no mail; when the DNS fails to say anything, the mail is put off. Few domains are looked up at once for one client
(`policy.turns`): their name servers may be its own, and silent. The null sender, address literals and accounts pass.
Source: RFC 5321 §5.1, RFC 7505 §4.2, RFC 3463 §3.2 and §3.5.
"""

from __future__ import annotations

from collections.abc import Awaitable

from postroika import metrics
from postroika.mail.address import canonical_domain, is_literal, split_address
from postroika.mail.reply import Reply, reply
from postroika.policy.names import Names
from postroika.policy.pipeline import Client
from postroika.policy.turns import Turns
from postroika.smtp.server_events import Mail

NO_DOMAIN = reply(550, "5.1.8", "the domain of the reverse-path does not exist")
NO_HOST = reply(550, "5.1.8", "the domain of the reverse-path has neither MX nor address records")
NULL_MX = reply(550, "5.7.27", "the domain of the reverse-path takes no mail (null MX)")
UNKNOWN = reply(451, "4.4.3", "the domain of the reverse-path cannot be looked up, please try again later")


class SenderDomain:
    """The check, for the stage "mail".

    Args:
        names: whom to ask.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._turns = Turns()

    def __call__(self, client: Client, mail: Mail) -> Awaitable[Reply | None] | None:
        """The verdict on MAIL."""
        _, domain = split_address(mail.reverse_path)
        if client.account or not domain or is_literal(domain):
            return None
        return self._judge(client.ip, domain)

    async def _judge(self, ip: str, domain: str) -> Reply | None:
        async with self._turns.of(ip):
            refusal = await self._refusal(domain)
        if refusal is not None:
            metrics.POLICY_REFUSALS["sender_domain"].value += 1
        return refusal

    async def _refusal(self, domain: str) -> Reply | None:
        try:
            name = canonical_domain(domain)
        except ValueError:
            return NO_DOMAIN
        hosts = await self._names.mail_hosts(name)
        if hosts.records:
            return NULL_MX if not any(hosts.records) else None
        if not hosts.exists:
            return NO_DOMAIN
        if not hosts.certain:
            return UNKNOWN
        # Without MX, the domain is its own mail host.
        certain = True
        for ask in (self._names.ipv4, self._names.ipv6):
            addresses = await ask(name)
            if addresses.records:
                return None
            certain &= addresses.certain
        return NO_HOST if certain else UNKNOWN
