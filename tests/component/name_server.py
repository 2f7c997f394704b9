"""A small authoritative-looking DNS server in the test's own process, over UDP and TCP on one loopback port.

It answers from a list of records, counts what it is asked, and can be told to misbehave: fail, stay silent, wait,
truncate. It does what a recursive server does for its clients: CNAMEs are followed, SOA comes with negative answers.
"""

from __future__ import annotations

import collections
import contextlib
import struct
from collections.abc import AsyncIterator

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio


class NameServer:
    """The zone and the moods of the server.

    Args:
        records: lines like "shop.test. 300 IN MX 10 mx.shop.test."; names that are no owner do not exist.
    """

    def __init__(self, records: str = "", soa_ttl_s: int = 30) -> None:
        self.rrsets: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        self.asked: collections.Counter[tuple[str, str]] = collections.Counter()
        self.over_tcp = 0
        self.fails: set[str] = set()  # names that get SERVFAIL
        self.silent: set[str] = set()  # names that get no answer
        self.held: dict[str, trio.Event] = {}  # names whose answer waits
        self.forgets_targets = False  # CNAMEs are answered without their targets
        self.signed: set[str] = set()  # names that it says to have validated (AD), with all below, to who asks for that
        self.soa_ttl_s = soa_ttl_s
        self.address = ""
        self.add(records)

    def add(self, records: str) -> None:
        """More records."""
        for line in records.strip().splitlines():
            owner, ttl, rdclass, rdtype, rdata = line.split(None, 4)
            name, kind = dns.name.from_text(owner), dns.rdatatype.from_text(rdtype)
            new = dns.rrset.from_text(name, int(ttl), rdclass, rdtype, rdata)
            self.rrsets.setdefault((name, kind), dns.rrset.RRset(name, new.rdclass, new.rdtype)).update(new)

    def questions(self, kind: str) -> int:
        """How many questions of this type have come."""
        return sum(count for (_, asked), count in self.asked.items() if asked == kind)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[NameServer]:
        """Answer while the block runs."""
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as udp:
            (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = tcp.socket.getsockname()[1]
            await udp.bind(("127.0.0.1", port))
            self.address = f"127.0.0.1:{port}"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_udp, udp, nursery)
                await nursery.start(trio.serve_listeners, self._serve_tcp, [tcp])
                yield self
                nursery.cancel_scope.cancel()

    async def _serve_udp(self, udp: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            wire, peer = await udp.recvfrom(65535)
            nursery.start_soon(self._answer_udp, udp, wire, peer)

    async def _answer_udp(self, udp: trio.socket.SocketType, wire: bytes, peer: object) -> None:
        query = dns.message.from_wire(wire)
        response = await self._response(query)
        if response is not None:
            limit = max(512, query.payload) if query.edns >= 0 else 512
            try:
                out = response.to_wire(max_size=limit)
            except dns.exception.TooBig:
                cut = dns.message.make_response(query)
                cut.flags |= dns.flags.TC
                out = cut.to_wire()
            await udp.sendto(out, peer)

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        async for chunk in stream:
            received += chunk
            if len(received) >= 2 and len(received) >= 2 + (size := struct.unpack("!H", received[:2])[0]):
                self.over_tcp += 1
                response = await self._response(dns.message.from_wire(bytes(received[2 : 2 + size])))
                if response is not None:
                    out = response.to_wire(max_size=65535)
                    await stream.send_all(struct.pack("!H", len(out)) + out)
                del received[: 2 + size]

    async def _response(self, query: dns.message.Message) -> dns.message.Message | None:
        (question,) = query.question
        text = question.name.to_text(omit_final_dot=True).lower()
        self.asked[text, dns.rdatatype.to_text(question.rdtype)] += 1
        if text in self.held:
            await self.held[text].wait()
        if text in self.silent:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        if query.flags & dns.flags.AD and self._is_signed(question.name):
            response.flags |= dns.flags.AD
        if text in self.fails:
            response.flags &= ~dns.flags.AD
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        name = question.name
        follows = question.rdtype != dns.rdatatype.CNAME
        while follows and (alias := self.rrsets.get((name, dns.rdatatype.CNAME))) is not None:
            response.answer.append(alias)
            name = alias[0].target
            if not self._is_signed(name):
                response.flags &= ~dns.flags.AD
            if self.forgets_targets:
                return response
        found = self.rrsets.get((name, question.rdtype))
        if found is not None:
            response.answer.append(found)
            return response
        soa = f"ns.test. admin.test. 1 3600 600 86400 {self.soa_ttl_s}"
        response.authority.append(dns.rrset.from_text("test.", 3600, "IN", "SOA", soa))
        if not any(owner.is_subdomain(name) for owner, _ in self.rrsets):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    def _is_signed(self, name: dns.name.Name) -> bool:
        return any(name.is_subdomain(dns.name.from_text(signed)) for signed in self.signed)
