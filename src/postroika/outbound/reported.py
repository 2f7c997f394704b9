"""What TLS reports are told of a session with an MX: as it should be, or what it failed of.

Promise: one session that was tried is counted once, whatever ways were gone to get it; one that failed before TLS came
into play (no connection, a greeting that refuses) is not counted. Source: RFC 8460 §4.2, §4.3.

Where no policy is published a session is as it should be if it is encrypted: nobody has said which certificate is good.
With a policy it has to be verified, also where the policy is only tested and the mail goes out all the same.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import Protocol

from postroika.config import Config
from postroika.errors import RemoteProtocolError
from postroika.mail.outcome import Peer, Stage
from postroika.mail.reply import Reply
from postroika.outbound.failure import NoSession, SessionRefused, TlsFailed
from postroika.pump import now
from postroika.routing.cache import TtlCache
from postroika.routing.table import RouteTable
from postroika.smtp.client_transaction import Step
from postroika.tls.facts import TlsFacts
from postroika.tls.policy import HostPolicy, Level, PolicySource, Rung
from postroika.tlsrpt.tally import Failure, Policy, ResultType, clipped, clipped_lines

_HOSTS = 10_000
# X509_V_ERR_… of OpenSSL.
_EXPIRED = 10
_OF_ANOTHER = {62, 63, 64}  # a name, an address of mail, an IP address


class Recorder(Protocol):
    """Counts; see `tlsrpt.recorder.Recorder`."""

    def succeeded(self, domain: str, policy: Policy) -> None:
        """A session was as the policy wants it."""

    def failed(self, domain: str, policy: Policy, failure: Failure) -> None:
        """A session was not."""

    def policy_failure(self, domain: str) -> tuple[ResultType, str] | None:
        """Why no policy of the domain is known, though it publishes one, or why the one that holds could not be
        renewed; None if nothing has failed."""

    def failed_besides(self, domain: str, policy: Policy, failure: Failure) -> None:
        """A session that is counted already has met with another failure."""


class SessionReports:
    """What the sessions of a worker come to.

    Args:
        recorder: counts.
        config: [[route]] and `delivery`.
    """

    def __init__(self, recorder: Recorder, config: Config) -> None:
        self.recorder = recorder
        self.source_address = config.delivery.source_address
        # A failure stands for the sessions, too, in which TLS is not tried any more since it has failed.
        self.remembered_s = config.delivery.tls_fallback_s
        self.failures: TtlCache[Peer, Failure] = TtlCache(_HOSTS)
        self._table = RouteTable(config.route)

    def attempt(self, destination: str, peer: Peer, policy: HostPolicy) -> SessionAttempt | None:
        """A session is about to be tried; None if it is nobody's business but ours: the config names the host, or wants
        no TLS with it."""
        domain = destination.rstrip(".").lower()
        if domain.startswith("[") or policy.level is Level.NONE or self._table.hops(domain) is not None:
            return None
        return SessionAttempt(self, domain, peer, policy)


class SessionAttempt:
    """A session with one host, until it stands or there is none. Exactly one of `stands`, `refused` and `given_up`
    ends it."""

    __slots__ = ("_domain", "_failure", "_peer", "_policy", "_reports")

    def __init__(self, reports: SessionReports, domain: str, peer: Peer, policy: HostPolicy) -> None:
        self._reports = reports
        self._domain = domain
        self._peer = peer
        self._policy = policy
        self._failure: Failure | None = None

    def failed(self, error: NoSession) -> None:
        """One way did not lead there. There may be others."""
        found = _result(error)
        if found is not None:
            self._failure = self._made(*found, error.greeting)

    def stands(self, facts: TlsFacts | None, rung: Rung, greeting: Reply | None) -> None:
        """There is a session.

        Args:
            facts: of its TLS.
            rung: how it was opened.
            greeting: of the host.
        """
        source = self._policy.source
        reports = self._reports
        if self._failure is not None:
            reports.failures.put(self._peer, self._failure, now(), now() + reports.remembered_s)
        if facts is None and rung is not Rung.CLEAR:
            self._count(self._made("starttls-not-supported", "", greeting))
        elif facts is not None and source is not None and source.kind == "tlsa" and self._policy.dane is None:
            self._count(self._made("tlsa-invalid", "no record can be used to check a certificate", greeting))
        elif facts is None or (source is not None and not facts.verified):
            before = self._failure or reports.failures.get(self._peer, now())
            self._count(before or self._made("validation-failure", "it has failed before", greeting))
        elif source is not None and source.mx_patterns and not _matches(self._peer.host, source):
            self._count(self._made("validation-failure", "the policy names other hosts", greeting))
        elif source is None and (unknown := reports.recorder.policy_failure(self._domain)) is not None:
            reports.recorder.failed(self._domain, Policy("sts", self._domain), self._made(*unknown, greeting))
        else:
            reports.recorder.succeeded(self._domain, self._applied())
            if (renewal := self._failed_renewal()) is not None:
                reports.recorder.failed_besides(self._domain, self._applied(), self._made(*renewal, greeting))

    def refused(self, reason: str) -> None:
        """There is none, since what is published lets no mail go there, or could not be found out."""
        source = self._policy.source
        result: ResultType = "dnssec-invalid" if source is not None and source.kind == "tlsa" else "validation-failure"
        self._count(self._made(result, reason, None))

    def given_up(self) -> None:
        """There is none."""
        if self._failure is not None:
            self._count(self._failure)

    def _count(self, failure: Failure) -> None:
        recorder = self._reports.recorder
        recorder.failed(self._domain, self._applied(), failure)
        if (renewal := self._failed_renewal()) is not None:
            result, reason = renewal
            besides = failure._replace(result=result, reason=clipped(reason))
            recorder.failed_besides(self._domain, self._applied(), besides)

    def _failed_renewal(self) -> tuple[ResultType, str] | None:
        """Why the policy, which holds, could not be fetched anew. A session counts with that besides what it came to:
        failures may overlap (RFC 8460 §4.3)."""
        source = self._policy.source
        return None if source is None or source.kind != "sts" else self._reports.recorder.policy_failure(self._domain)

    def _applied(self) -> Policy:
        source = self._policy.source
        if source is None:
            return Policy("no-policy-found", self._domain)
        if source.kind == "tlsa":  # RFC 8460 §1.1: it is the host that they are for.
            dane = self._policy.dane
            return Policy("tlsa", self._peer.host if dane is None else dane.base, clipped_lines(source.lines))
        return Policy(source.kind, source.domain, clipped_lines(source.lines), clipped_lines(source.mx_patterns))

    def _made(self, result: ResultType, reason: str, greeting: Reply | None) -> Failure:
        peer = self._peer
        return Failure(
            result,
            self._reports.source_address or local_address(peer.ip),
            peer.host if peer.host != peer.ip else "",
            _name_in(greeting),
            peer.ip,
            clipped(reason),
        )


def _result(error: NoSession) -> tuple[ResultType, str] | None:
    """What kind of failure it is, and why; None if TLS had no part in it."""
    failure = error.error
    match failure:
        case TlsFailed(code=code) if failure.untrusted:
            if code == _EXPIRED:
                return "certificate-expired", str(failure)
            if code in _OF_ANOTHER:
                return "certificate-host-mismatch", str(failure)
            return "certificate-not-trusted", str(failure)
        case TlsFailed():
            return "validation-failure", str(failure)
        case SessionRefused(stage=Stage.TLS):
            return "starttls-not-supported", str(failure.reply) if failure.remote else ""
        case RemoteProtocolError() if error.step in {Step.STARTTLS, Step.HANDSHAKE}:
            return "validation-failure", str(failure)
        case _ if error.step is Step.HANDSHAKE:
            return "validation-failure", f"no end of the TLS handshake: {str(failure) or type(failure).__name__}"
    return None


def _name_in(greeting: Reply | None) -> str:
    """What the host calls itself: the first word of its greeting (RFC 5321 §4.2)."""
    words = greeting.lines[0].split(None, 1) if greeting is not None and greeting.lines else []
    return clipped(words[0]) if words else ""


def _matches(host: str, source: PolicySource) -> bool:
    """Whether the policy is about this host (RFC 8461 §4.1)."""
    above = host.partition(".")[2]
    return any(host == pattern or (pattern[:2] == "*." and above == pattern[2:]) for pattern in source.mx_patterns)


@lru_cache(maxsize=1024)
def local_address(ip: str) -> str:
    """The address that we connect from to `ip`, by the routes of the system; "" if there is none. Nothing is sent."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((ip, 25))
            return str(probe.getsockname()[0])
    except OSError:  # no route, or a system without IPv6
        return ""
