"""What clients meet: the listener with its sessions, who may log in there, and the record of what is refused."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import trio

from postroika import metrics
from postroika.config import Config
from postroika.inbound.accept import Door
from postroika.inbound.failed_logins import FailedLogins
from postroika.inbound.listener import Listener
from postroika.inbound.login import Logins, Rules
from postroika.inbound.names import ResolvedNames
from postroika.inbound.session import Services, Session
from postroika.outcome.events import EventWriter, FailedLogin, Refusal
from postroika.policy.accounts import Accounts
from postroika.policy.checks import Checks
from postroika.policy.limits import Rate, Rates
from postroika.policy.lockout import Lockout
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client
from postroika.policy.relay import RelayPolicy
from postroika.process import open_files
from postroika.routing.resolver import Resolver
from postroika.smtp.server_settings import ServerSettings
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.tls.certificates import Certificates

_CONNECT_EVENTS = (Rate(100, 1.0),)  # clients that are sent away at once must not have us write without end
_TLS_AT_FIRST: Final[dict[str, Literal["none", "offered", "active"]]] = {
    "none": "none",
    "starttls": "offered",
    "implicit": "active",
}


class Records:
    """Writes down what is refused.

    Args:
        events: gives each its id and text.
        committer: makes them durable, with whatever comes next.
    """

    def __init__(self, events: EventWriter, committer: Committer) -> None:
        self._events = events
        self._committer = committer
        self._connect_events = Rates()

    def login_failed(self, failed: FailedLogin) -> None:
        """Record a failed login, as `rejected`."""
        changes = Changes()
        changes.event(self._events.auth_failed(failed))
        self._committer.commit_later(changes)

    def rejected(self, refusal: Refusal) -> None:
        """Record a refusal. It may be lost in a crash or on a full disk: nobody was promised anything."""
        if (counter := metrics.REJECTED.get(refusal.stage)) is not None:
            counter.value += 1
        if refusal.stage == "connect" and self._connect_events.take("", _CONNECT_EVENTS, trio.current_time()):
            return
        changes = Changes()
        changes.event(self._events.rejected(refusal))
        self._committer.commit_later(changes)


def make_checks(config: Config) -> Checks:
    """What judges clients, its hooks loaded; each of its resolvers may ask as much as open files allow."""
    settings = msgspec.structs.replace(config.dns, timeout_s=config.policy.dns_timeout_s)
    most = open_files.policy_questions_now()
    names, list_names = (ResolvedNames(Resolver(settings, questions=most)) for _ in range(2))
    checks = Checks(config, names, list_names=list_names)
    if checks.hooks is not None:
        checks.hooks.load()
    return checks


def make_listener(
    config: Config,
    handoff: socket.socket,
    door: Door,
    checks: Checks,
    records: Records,
    accounts: Accounts | None,
    certificates: Certificates,
) -> Listener:
    """What takes connections from the supervisor, and starts their sessions.

    Args:
        config: this worker's share.
        handoff: connections come from here.
        door: whatever is accepted goes through it.
        checks: judge clients and what they want.
        records: hears of what is refused.
        accounts: those who may log in; None if nobody may.
        certificates: ours, by listener.
    """
    relay = RelayPolicy(config.relay.networks, config.relay.domains, config.server.hostname)
    limits = config.limits
    # Where nobody can log in, nothing is said of it.
    strict = [
        ServerSettings(
            hostname=config.server.hostname,
            max_message_bytes=limits.max_message_bytes,
            max_recipients=limits.max_recipients,
            max_bad_commands=limits.max_bad_commands,
            max_junk_commands=limits.max_junk_commands,
            max_received=limits.max_received,
            max_header_bytes=limits.max_header_bytes,
            tls=_TLS_AT_FIRST[listener.tls],
            tls_first=listener.require_tls or listener.client_certificates == "require",
            auth=accounts is not None and (listener.tls != "none" or listener.auth_without_tls),
        )
        for listener in config.listener
    ]
    # Line ends are mended only for those whom we trust: a stranger could hide a second message in them.
    trusted = [
        msgspec.structs.replace(settings, bare_newlines=listener.bare_newlines)
        for settings, listener in zip(strict, config.listener, strict=True)
    ]

    def settings_of(client: Client) -> ServerSettings:
        return (trusted if client.trusted else strict)[client.listener]

    services = Services(
        door=door,
        pipeline=checks.pipeline,
        relay=relay,
        rejected=records.rejected,
        limits=limits,
        logins=_logins(config, accounts, records),
        xclient_from=_by_listener([listener.xclient_from for listener in config.listener]),
        settings_of=settings_of,
    )
    at_listener = certificates.listeners

    def start_session(sock: socket.socket, client: Client) -> Session:
        client.trusted = client.known and relay.trusts(client.ip)
        return Session(sock, client, settings_of(client), services, at_listener[client.listener])

    return Listener(
        handoff,
        start_session,
        records.rejected,
        hostname=config.server.hostname,
        max_connections=limits.max_connections,
        max_connections_per_ip=limits.max_connections_per_ip,
        tls_at_once=[number for number, listener in enumerate(config.listener) if listener.tls == "implicit"],
        proxies=_by_listener([listener.proxy_from for listener in config.listener]),
        proxy_timeout_s=limits.proxy_timeout_s,
    )


def _logins(config: Config, accounts: Accounts | None, records: Records) -> Logins | None:
    settings = config.accounts
    if accounts is None:
        return None
    return Logins(
        accounts,
        Lockout(
            per_ip=settings.failures_per_ip, per_account=settings.failures_per_account, period_s=settings.lockout_s
        ),
        [
            Rules(listener.role == "submission", listener.auth_without_tls, listener.tls != "none")
            for listener in config.listener
        ],
        FailedLogins(records.login_failed, accounts.tenant, settings.failures_per_ip, settings.lockout_s),
        failure_delay_s=settings.failure_delay_s,
        failures_per_session=settings.failures_per_session,
        check_timeout_s=config.limits.policy_timeout_s,
    )


def _by_listener(networks: Sequence[Sequence[str]]) -> dict[int, Networks]:
    """By the number of the listener, where there are any."""
    return {number: Networks(named) for number, named in enumerate(networks) if named}
