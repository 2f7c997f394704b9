"""Looks names up in DNS.

Promise: every look-up ends within `dns.timeout_s` with an Answer that says which of four things is the case; it never
raises for what a name server says or fails to say. What is known is remembered for as long as DNS allows and no more
than the config does; that we had too many questions to ask one of them is nobody's failure, and not remembered. A
question that is being asked already is not asked twice. An answer is `secure` only if the
config says that the servers validate, and they say that they have validated it, with every alias on the way.

How: dnspython's stub resolver on Trio speaks the protocol (several servers, retries, TCP after a truncated answer).
One task asks for all that want the same thing; when it is cancelled, the next of them takes over.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.TLSA
import dns.rdtypes.tlsabase
import dns.resolver
import msgspec
import trio

from postroika.config import Dns, split_host_port
from postroika.process import open_files
from postroika.routing.cache import TtlCache
from postroika.routing.mx import Mx
from postroika.tls.tlsa import Tlsa

T = TypeVar("T")
_Kind: TypeAlias = Literal["MX", "A", "AAAA", "TLSA", "CNAME", "TXT"]

SYSTEM_FILE = Path("/etc/resolv.conf")

# A server's failure is remembered this long, so that the mail of a domain does not ask one by one (RFC 2308 §7).
FAILURE_TTL_S = 5.0
# How often the system's file is looked at for a change.
_SYSTEM_FILE_CHECK_S = 5.0
# What one try may take before the next server, or the same again, is asked.
_TRY_S = 2.0
# Larger answers come over TCP: this much passes every path unfragmented (DNS flag day 2020).
_EDNS_PAYLOAD_BYTES = 1232
# More records of one answer than this are of no use to us, and a hostile answer can have thousands.
_RECORDS_KEPT = 100
_CNAME_RESTARTS = 8
# A question may wait for its slot. If servers had less than this of its time left, their silence tells nothing of them.
_ENOUGH_TIME = 0.5

# For one digest of a wrong length dnspython would refuse the whole answer. To us that is a record which cannot be used;
# the others count all the same (RFC 6698 §4.1).
getattr(dns.rdtypes.tlsabase.TLSABase, "_cert_length_by_mtype", {}).clear()


class Status(enum.Enum):
    """What is known of a name and record type."""

    FOUND = "found"
    NODATA = "no data"  # the name exists, but has no such record
    NXDOMAIN = "no such name"
    FAILED = "failed"  # no usable answer in time: ask again later


class Answer(msgspec.Struct, Generic[T], frozen=True):
    """The answer to one question.

    Args:
        records: empty unless FOUND; MX by rising preference.
        canonical: the name at the end of the CNAME chain, lower case without the final dot.
        expires_at: Trio time until which it may be relied on.
        detail: for FAILED, what went wrong.
        secure: DNSSEC vouches for it, aliases and absence included (RFC 4033 §5). Never for FAILED.
        asked: False where the failure is ours: too many other questions were being asked.
    """

    status: Status
    records: tuple[T, ...] = ()
    canonical: str = ""
    expires_at: float = 0.0
    detail: str = ""
    secure: bool = False
    asked: bool = True


class _Question:
    """A question that is being asked, or waits for a slot. `answer` stays None if the asking task was cancelled.

    Attributes:
        begun_at: Trio time at which it had its slot.
    """

    __slots__ = ("answer", "begun_at", "settled")

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.begun_at = math.inf
        self.answer: Answer[Any] | None = None


class Resolver:
    """Answers from the configured servers, or the system's.

    Args:
        settings: the [dns] section.
        system_file: where the system's servers are named when the config names none.
        questions: how many may be asked at once; None = as many as there are descriptors for.
    """

    def __init__(self, settings: Dns, system_file: Path = SYSTEM_FILE, *, questions: int | None = None) -> None:
        self._settings = settings
        self._system_file = system_file
        self._cache: TtlCache[tuple[str, str], Answer[Any]] = TtlCache(settings.cache_entries)
        self._asked: dict[tuple[str, str], _Question] = {}
        self._slots = trio.Semaphore(open_files.questions_now() if questions is None else questions)
        self._backend = dns.asyncbackend.get_backend("trio")
        self._stub: dns.asyncresolver.Resolver | None = None
        self._order: list[tuple[str, int]] = []
        self._checked_at = -math.inf
        self._system_stamp: tuple[int, int] | None = None
        if settings.servers:
            stub = _stub()
            if settings.validating:
                # Asks for the AD bit in the answer (RFC 6840 §5.7), without all the signatures that DO would bring.
                stub.set_flags(dns.flags.RD | dns.flags.AD)
            self._use([split_host_port(server, 53) for server in settings.servers], stub)

    async def mx(self, name: str) -> Answer[Mx]:
        """The MX records of `name`, null MX and nonsense included.

        Args:
            name: in A-labels, absolute, with or without a final dot.

        Cancellation: safe at any point; another task that waits for the same answer takes the question over.
        """
        return cast(Answer[Mx], await self._look_up(name, "MX", _mx_records))

    async def ipv4(self, name: str) -> Answer[str]:
        """The A records of `name`, as `mx` otherwise."""
        return cast(Answer[str], await self._look_up(name, "A", _address_records))

    async def ipv6(self, name: str) -> Answer[str]:
        """The AAAA records of `name`, as `mx` otherwise."""
        return cast(Answer[str], await self._look_up(name, "AAAA", _address_records))

    async def tlsa(self, host: str, port: int) -> Answer[Tlsa]:
        """The TLSA records of a TCP port of `host`, as `mx` otherwise.

        Source: RFC 6698 §3.
        """
        return cast(Answer[Tlsa], await self._look_up(f"_{port}._tcp.{host}", "TLSA", _tlsa_records))

    async def alias(self, name: str) -> Answer[str]:
        """The CNAME record of `name` itself, as `mx` otherwise."""
        return cast(Answer[str], await self._look_up(name, "CNAME", _alias_records))

    async def txt(self, name: str) -> Answer[bytes]:
        """The TXT records of `name`, the strings of each joined, as `mx` otherwise."""
        return cast(Answer[bytes], await self._look_up(name, "TXT", _texts))

    def known(self, name: str, kind: _Kind) -> Answer[Any] | None:
        """The answer that is remembered, if there is one: costs no task."""
        return self._cache.get((name.rstrip(".").lower(), kind), trio.current_time())

    def forget_failures(self) -> None:
        """Ask anew for whatever could not be found out, or was not there."""
        self._cache.drop(lambda answer: answer.status is not Status.FOUND)

    async def _look_up(self, name: str, kind: _Kind, convert: Callable[[Any], tuple[Any, ...]]) -> Answer[Any]:
        known = self.known(name, kind)
        if known is not None:
            return known
        key = (name.rstrip(".").lower(), kind)
        deadline = trio.current_time() + self._settings.timeout_s
        while True:
            question = self._asked.get(key)
            if question is None:
                return await self._lead(key, convert, deadline)
            with trio.move_on_at(deadline) as scope:
                await question.settled.wait()
            if question.answer is not None:
                return question.answer
            if scope.cancelled_caught:
                return self._timed_out(question)

    async def _lead(
        self, key: tuple[str, str], convert: Callable[[Any], tuple[Any, ...]], deadline: float
    ) -> Answer[Any]:
        """Ask for all that wait for `key`. Running out of time is an answer too; being cancelled is none."""
        question = self._asked[key] = _Question()
        try:
            answer: Answer[Any] | None = None
            with trio.move_on_at(deadline):
                async with self._slots:
                    question.begun_at = trio.current_time()
                    answer = await self._ask(*key, convert)
            question.answer = answer = answer or self._timed_out(question)
            self._cache.put(key, answer, trio.current_time(), answer.expires_at)
            return answer
        finally:
            del self._asked[key]
            question.settled.set()

    async def _ask(self, text: str, kind: str, convert: Callable[[Any], tuple[Any, ...]]) -> Answer[Any]:
        """One question to the servers; a CNAME chain that a server leaves unfinished is followed."""
        try:
            name = dns.name.from_text(text)
        except (dns.exception.DNSException, UnicodeError) as error:
            return Answer(Status.NXDOMAIN, detail=f"{text!r} is not a domain name: {error}")
        try:
            stub = self._servers()
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return self._failed(f"no DNS servers: {error}")
        ttl, secure = math.inf, self._settings.validating
        for _ in range(_CNAME_RESTARTS):
            try:
                answer = await stub.resolve(
                    name,
                    kind,
                    raise_on_no_answer=False,
                    search=False,
                    lifetime=math.inf,  # the deadline of the question ends it, on Trio's clock
                    backend=self._backend,
                )
            except dns.resolver.NXDOMAIN as error:
                response = cast(dns.message.QueryMessage, error.kwargs["responses"][name])
                chain, secure = response.resolve_chaining(), secure and _is_authentic(response)
                ttl = min(ttl, chain.minimum_ttl)
                return self._settled(Status.NXDOMAIN, (), chain.canonical_name, ttl, secure=secure)
            except dns.exception.DNSException as error:
                return self._failed(_cause(error))
            self._prefer(answer.nameserver, answer.port)
            chain = answer.chaining_result
            ttl = min(ttl, chain.minimum_ttl)
            secure = secure and _is_authentic(answer.response)
            if chain.answer is not None:
                records = convert(chain.answer)
                return self._settled(Status.FOUND, records, chain.canonical_name, ttl, secure=secure)
            if chain.canonical_name == name or _has_soa(answer.response):
                return self._settled(Status.NODATA, (), chain.canonical_name, ttl, secure=secure)
            name = chain.canonical_name
        return self._failed("CNAME chain too long")

    def _settled(
        self, status: Status, records: tuple[Any, ...], canonical: dns.name.Name, ttl_s: float, *, secure: bool
    ) -> Answer[Any]:
        longest_s = self._settings.max_ttl_s if status is Status.FOUND else self._settings.negative_ttl_s
        return Answer(
            status=status,
            records=records,
            canonical=_plain(canonical),
            expires_at=trio.current_time() + min(ttl_s, longest_s, self._settings.max_ttl_s),
            secure=secure,
        )

    def _failed(self, detail: str) -> Answer[Any]:
        ttl_s = min(FAILURE_TTL_S, self._settings.negative_ttl_s)
        return Answer(Status.FAILED, expires_at=trio.current_time() + ttl_s, detail=detail)

    def _timed_out(self, question: _Question) -> Answer[Any]:
        now = trio.current_time()
        if now - question.begun_at < _ENOUGH_TIME * self._settings.timeout_s:
            detail = "no server was asked in time: there were too many questions at once"
            return Answer(Status.FAILED, expires_at=now, detail=detail, asked=False)
        servers = [host if port == 53 else f"{host}:{port}" for host, port in self._order]
        whom = f" from {', '.join(servers)}" if servers else ""
        return self._failed(f"no answer within {self._settings.timeout_s:g} s{whom}")

    def _servers(self) -> dns.asyncresolver.Resolver:
        """The stub resolver with the servers of the moment; the system's file is read again when it has changed.

        Raises:
            OSError, dns.exception.DNSException, ValueError: the system names no server, and never has.
        """
        now = trio.current_time()
        if not self._settings.servers and now >= self._checked_at + _SYSTEM_FILE_CHECK_S:
            try:
                facts = self._system_file.stat()
                stamp = (facts.st_ino, facts.st_mtime_ns)
                if stamp != self._system_stamp:
                    stub = _stub()
                    stub.read_resolv_conf(self._system_file)
                    self._use([(str(server), 53) for server in stub.nameservers], stub)
                    self._system_stamp = stamp
                self._checked_at = now
            except (OSError, dns.exception.DNSException, ValueError):
                # Caught in the middle of being rewritten: the servers that we know will do.
                if self._stub is None:
                    raise
        assert self._stub is not None
        return self._stub

    def _use(self, servers: list[tuple[str, int]], stub: dns.asyncresolver.Resolver) -> None:
        self._order, self._stub = servers, stub
        stub.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]

    def _prefer(self, address: str | None, port: int | None) -> None:
        """Begin with the server that answered last: one that is dead costs `_TRY_S` once, not at every question."""
        if self._stub is not None and (address, port) in self._order[1:]:
            self._use(sorted(self._order, key=lambda server: server != (address, port)), self._stub)


def _stub() -> dns.asyncresolver.Resolver:
    stub = dns.asyncresolver.Resolver(configure=False)
    stub.timeout = _TRY_S
    stub.use_edns(0, 0, _EDNS_PAYLOAD_BYTES)
    return stub


def _plain(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


def _mx_records(rrset: Any) -> tuple[Mx, ...]:
    records = sorted(
        Mx(record.preference, _plain(record.exchange)) for record in rrset if isinstance(record, dns.rdtypes.ANY.MX.MX)
    )
    return tuple(records[:_RECORDS_KEPT])


def _address_records(rrset: Any) -> tuple[str, ...]:
    return tuple(str(record.address) for record in list(rrset)[:_RECORDS_KEPT])


def _tlsa_records(rrset: Any) -> tuple[Tlsa, ...]:
    records = [
        Tlsa(record.usage, record.selector, record.mtype, record.cert)
        for record in rrset
        if isinstance(record, dns.rdtypes.ANY.TLSA.TLSA)
    ]
    return tuple(records[:_RECORDS_KEPT])


def _alias_records(rrset: Any) -> tuple[str, ...]:
    return tuple(_plain(record.target) for record in rrset)


def _is_authentic(response: dns.message.Message) -> bool:
    return bool(response.flags & dns.flags.AD)


def _texts(rrset: Any) -> tuple[bytes, ...]:
    return tuple(b"".join(record.strings) for record in list(rrset)[:_RECORDS_KEPT])


def _has_soa(response: dns.message.Message) -> bool:
    return any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)


def _cause(error: dns.exception.DNSException) -> str:
    """What the servers did, without the question: "SERVFAIL", "[Errno 101] Network is unreachable"."""
    results = {str(result).rstrip(".") for _, _, _, result, _ in error.kwargs.get("errors") or ()}
    return ", ".join(sorted(results)) or str(error) or type(error).__name__
