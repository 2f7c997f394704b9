"""inbound.proxy_header: PROXY headers whole, cut anywhere, with the client's octets behind them, and what is none."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from postroika.inbound.proxy_header import MOST_BYTES, MalformedError, ProxyHeader, crc32c, read_proxy_header
from tests.reference import proxy_header as twin

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = ProxyHeader(0, "client", ("192.0.2.7", 56324), ("198.51.100.1", 25))
V6 = ProxyHeader(0, "client", ("2001:db8::7", 1), ("2001:db8:1::25", 465))
UNKNOWN = ProxyHeader(0, "unknown")
LOCAL = ProxyHeader(0, "local")
BEHIND = b"EHLO client.example\r\n\x16\x03\x01\r\n\r\n\0"


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def v2(block: bytes = b"", *, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def addresses(source: str, destination: str, *ports: int) -> bytes:
    packed = [ipaddress.ip_address(address).packed for address in (source, destination)]
    return b"".join(packed) + struct.pack("!HH", *ports)


def with_checksum(block: bytes, tail: bytes = b"", **how: int) -> bytes:
    empty = v2(block + tlv(3, bytes(4)) + tail, **how)
    at = 16 + len(block) + 3
    return empty[:at] + struct.pack("!I", twin.crc32c(empty)) + empty[at + 4 :]


FOUR = addresses("192.0.2.7", "198.51.100.1", 56324, 25)
SIX = addresses("2001:db8::7", "2001:db8:1::25", 1, 465)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/proxy".ljust(108, b"\0")
NOISE = (
    tlv(0x02, b"mx.example") + tlv(0x04, b"") + tlv(0x20, b"\1\0\0\0\0" + tlv(0x21, b"TLSv1.3")) + tlv(0xE0, b"\r\n")
)

GOOD = {
    b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n": V4,
    b"PROXY TCP6 2001:db8::7 2001:DB8:1:0:0:0:0:25 1 465\r\n": V6,
    b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 56324 25\r\n": V4,
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": ProxyHeader(
        0, "client", ("0.0.0.0", 0), ("255.255.255.255", 65535)
    ),
    b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n": ProxyHeader(
        0, "client", (":".join(["ffff"] * 8), 65535), (":".join(["ffff"] * 8), 65535)
    ),
    b"PROXY UNKNOWN\r\n": UNKNOWN,
    b"PROXY UNKNOWN \0\xff\r \n 1\r\n": UNKNOWN,
    b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n": UNKNOWN,
    v2(FOUR): V4,
    v2(SIX, family=0x21): V6,
    v2(addresses("::ffff:192.0.2.7", "::ffff:198.51.100.1", 56324, 25), family=0x21): V4,
    v2(UNIX, family=0x31): UNKNOWN,
    v2(family=0x00): UNKNOWN,
    v2(command=0x20, family=0x00): LOCAL,
    v2(FOUR, command=0x20): LOCAL,
    v2(b"whatever", command=0x20, family=0xFF): LOCAL,
    v2(FOUR + NOISE): V4,
    v2(SIX + NOISE, family=0x21): V6,
    v2(UNIX + NOISE, family=0x31): UNKNOWN,
    v2(NOISE, family=0x00): UNKNOWN,
    with_checksum(FOUR): V4,
    with_checksum(FOUR + NOISE, NOISE): V4,
    with_checksum(SIX, NOISE, family=0x21): V6,
    with_checksum(b"", family=0x00): UNKNOWN,
    v2(FOUR + tlv(4, bytes(MOST_BYTES - 16 - len(FOUR) - 3))): V4,
}

BAD = {
    b"EHLO client.example\r\n": "it does not begin with a PROXY header",
    b"\x16\x03\x01": "it does not begin with a PROXY header",
    b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n": "it does not begin with a PROXY header",
    b" PROXY": "it does not begin with a PROXY header",
    b"PROXY\r\n": "it does not begin with a PROXY header",
    b"PROXY\tTCP4 192.0.2.7 198.51.100.1 1 2\r\n": "it does not begin with a PROXY header",
    b"PROXY \r\n": "neither TCP4 nor TCP6 nor UNKNOWN",
    b"PROXY tcp4 192.0.2.7 198.51.100.1 1 2\r\n": "neither TCP4 nor TCP6 nor UNKNOWN",
    b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n": "neither TCP4 nor TCP6 nor UNKNOWN",
    b"PROXY UNKNOWNS\r\n": "neither TCP4 nor TCP6 nor UNKNOWN",
    b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n": "neither TCP4 nor TCP6 nor UNKNOWN",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n": "not two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n": "not two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n": "not two addresses and two ports",
    b"PROXY TCP4 192.0.2.7  198.51.100.1 1\r\n": "not a port",
    b"PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n": "not an IP address",
    b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n": "not an IP address",
    b"PROXY TCP4 \xd9\xa1.0.2.7 198.51.100.1 1 2\r\n": "not an IP address",
    b"PROXY TCP4 mx.example 198.51.100.1 1 2\r\n": "not an IP address",
    b"PROXY TCP4 127.0.0.1\n 198.51.100.1 1 2\r\n": "not an IP address",
    b"PROXY TCP4 192.0.2.7/32 198.51.100.1 1 2\r\n": "not an IP address",
    b"PROXY TCP4 192.0.2.7 ::1 1 2\r\n": "not an IPv4 address",
    b"PROXY TCP6 192.0.2.7 ::1 1 2\r\n": "not an IPv6 address",
    b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n": "not an IPv6 address",
    b"PROXY TCP6 [::1] ::1 1 2\r\n": "not an IP address",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n": "not a port",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n": "not a port",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n": "not a port",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n": "not a port",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 \r\n": "not a port",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n": None,
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n": "the line is too long",
    b"PROXY TCP4 " + b"1" * 1000: "the line is too long",
    b"\r\n\r\n\0\r\nQUIT\r": "it does not begin with a PROXY header",
    SIGNATURE + b"\x11": "neither LOCAL nor PROXY of version 2",
    SIGNATURE + b"\x22": "neither LOCAL nor PROXY of version 2",
    SIGNATURE + b"\x31": "neither LOCAL nor PROXY of version 2",
    v2(FOUR, family=0x12): "neither TCP over IPv4 or IPv6, nor a Unix socket, nor unspecified",
    v2(FOUR, family=0x10): "neither TCP over IPv4 or IPv6, nor a Unix socket, nor unspecified",
    v2(FOUR, family=0x41): "neither TCP over IPv4 or IPv6, nor a Unix socket, nor unspecified",
    v2(FOUR[:-1]): "too short for its addresses",
    v2(FOUR, family=0x21): "too short for its addresses",
    v2(UNIX[:-1], family=0x31): "too short for its addresses",
    SIGNATURE + b"\x21\x11" + struct.pack("!H", MOST_BYTES - 15): "longer than 4096 octets",
    SIGNATURE + b"\x20\x00\xff\xff": "longer than 4096 octets",
    v2(FOUR + b"\4"): "a TLV does not end where the header does",
    v2(FOUR + b"\4\0"): "a TLV does not end where the header does",
    v2(FOUR + b"\4\0\1"): "a TLV does not end where the header does",
    v2(FOUR + NOISE + b"\4\xff\xff"): "a TLV does not end where the header does",
    v2(FOUR + tlv(3, b"\0\0\0")): "not one checksum of four octets",
    v2(FOUR + tlv(3, bytes(4))): "the checksum is wrong",
    with_checksum(FOUR)[:-1] + b"\0": "the checksum is wrong",
    with_checksum(FOUR).replace(b"\xc0\0\2\7", b"\x7f\0\0\1"): "the checksum is wrong",
    with_checksum(FOUR, tlv(3, bytes(4))): "not one checksum of four octets",
}


def outcome(octets: bytes) -> ProxyHeader | str | None:
    try:
        return read_proxy_header(octets)
    except MalformedError as error:
        return str(error)


@pytest.mark.parametrize(("octets", "header"), GOOD.items())
def test_header_is_read_once_it_is_whole_and_no_further(octets: bytes, header: ProxyHeader) -> None:
    wanted = header._replace(size=len(octets))
    for at in range(len(octets)):
        assert read_proxy_header(octets[:at]) is None
    for tail in (b"", b"\r", b"\n", b"\0", BEHIND, octets):
        assert read_proxy_header(octets + tail) == wanted
    assert twin.read(octets + BEHIND) == wanted


@pytest.mark.parametrize(("octets", "why"), BAD.items())
def test_what_is_no_header_is_refused_as_soon_as_that_is_clear(octets: bytes, why: str | None) -> None:
    said = [outcome(octets[:at]) for at in range(len(octets) + 1)]
    waited = said.count(None)
    assert said == [None] * waited + [why] * (len(said) - waited)
    assert said[-1] == why
    assert [twin.read(octets[:at]) for at in range(len(octets) + 1)] == [said and ValueError for said in said]


def test_line_feed_alone_ends_no_line() -> None:
    line = b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n"
    with pytest.raises(MalformedError, match="not two addresses and two ports"):
        read_proxy_header(line + b"EHLO x\r\n")


def test_longest_line_of_version_1_is_taken() -> None:
    longest = max((octets for octets in GOOD if octets.startswith(b"PROXY")), key=len)
    assert len(longest) == 107


@pytest.mark.parametrize(
    ("octets", "wanted"),
    # RFC 3720 appendix B.4; the first one is the check value of all catalogues of CRCs.
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_of_known_octets(octets: bytes, wanted: int) -> None:
    assert crc32c(octets) == twin.crc32c(octets) == wanted
