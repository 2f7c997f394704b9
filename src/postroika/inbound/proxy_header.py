"""The header by which a proxy says for whom it speaks: the PROXY protocol, versions 1 and 2, taken apart.

Promise: pure; reads no octet behind the header, says "not yet" as long as what has come may still become one, and
raises as soon as it cannot. A header has MOST_BYTES at most, and every address in it is one, in canonical form.

Source: the HAProxy project, "The PROXY protocol, versions 1 & 2" (§2.1, §2.2). CRC-32C: RFC 3720 §12.1, appendix B.4.
"""

from __future__ import annotations

import ipaddress
from typing import Final, Literal, NamedTuple

MOST_BYTES: Final = 4096  # of a header; senders keep to what one segment takes (536), but for certificates in TLVs
_V1_MOST_BYTES = 107  # §2.1: the longest line there can be, with its CR LF
_V1_BEGIN = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES = 16  # signature, version and command, family and transport, length
_CRC32C_TLV = 0x03
_TLV_HEAD_BYTES = 3
# Family and transport to octets of the address block. Only streams: a datagram cannot have become a connection.
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESS_BYTES = {_UNSPEC: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}


class MalformedError(ValueError):
    """These octets are no header, and cannot become one; the text says why."""


class ProxyHeader(NamedTuple):
    """What a proxy has said.

    Args:
        size: octets of the header; what follows is the client's.
        kind: "client": of the connection from `source` to `destination`. "local": the proxy speaks for itself, to see
            how we are. "unknown": for somebody whose address it cannot name.
        source, destination: IP address and port; ("", 0) where `kind` is not "client".
    """

    size: int
    kind: Literal["client", "local", "unknown"]
    source: tuple[str, int] = ("", 0)
    destination: tuple[str, int] = ("", 0)


def read_proxy_header(octets: bytes) -> ProxyHeader | None:
    """The header that `octets` begin with; None as long as it is not whole.

    Raises:
        MalformedError: it is none.
    """
    if octets.startswith(_SIGNATURE):
        return _version_2(octets)
    if octets.startswith(_V1_BEGIN):
        return _version_1(octets)
    if _SIGNATURE.startswith(octets) or _V1_BEGIN.startswith(octets):
        return None
    raise MalformedError("it does not begin with a PROXY header")


def _version_1(octets: bytes) -> ProxyHeader | None:
    end = octets.find(b"\r\n", 0, _V1_MOST_BYTES)
    if end < 0:
        if len(octets) >= _V1_MOST_BYTES:
            raise MalformedError("the line is too long")
        return None
    size = end + 2
    words = octets[len(_V1_BEGIN) : end].split(b" ")
    if words[0] == b"UNKNOWN":
        return ProxyHeader(size, "unknown")  # the rest is to be ignored
    if words[0] not in {b"TCP4", b"TCP6"}:
        raise MalformedError("neither TCP4 nor TCP6 nor UNKNOWN")
    if len(words) != 5:
        raise MalformedError("not two addresses and two ports")
    wanted = 4 if words[0] == b"TCP4" else 6
    source = _written_address(words[1], wanted), _written_port(words[3])
    destination = _written_address(words[2], wanted), _written_port(words[4])
    return ProxyHeader(size, "client", source, destination)


def _written_address(word: bytes, version: int) -> str:
    try:
        address = ipaddress.ip_address(word.decode("ascii"))
    except ValueError:
        raise MalformedError("not an IP address") from None
    if address.version != version or b"%" in word:
        raise MalformedError(f"not an IPv{version} address")
    return _canonical(address)


def _written_port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or (word[0:1] == b"0" and word != b"0") or int(word) > 65535:
        raise MalformedError("not a port")
    return int(word)


def _canonical(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As `policy.relay.canonical_ip`: an address in two forms would have two limits, and could miss its network."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _version_2(octets: bytes) -> ProxyHeader | None:
    # What is wrong already is told before the rest has come.
    if len(octets) > 12 and octets[12] not in {0x20, 0x21}:
        raise MalformedError("neither LOCAL nor PROXY of version 2")
    if len(octets) < _FIXED_BYTES:
        return None
    local = octets[12] == 0x20
    family = octets[13]
    size = _FIXED_BYTES + int.from_bytes(octets[14:16])
    if size > MOST_BYTES:
        raise MalformedError(f"longer than {MOST_BYTES} octets")
    if not local:
        if family not in _ADDRESS_BYTES:
            raise MalformedError("neither TCP over IPv4 or IPv6, nor a Unix socket, nor unspecified")
        if size < _FIXED_BYTES + _ADDRESS_BYTES[family]:
            raise MalformedError("too short for its addresses")
    if len(octets) < size:
        return None
    if local:
        return ProxyHeader(size, "local")  # §2.2: the block is to be discarded, the family ignored
    _check_tlvs(octets[:size], _FIXED_BYTES + _ADDRESS_BYTES[family])
    if family not in {_TCP4, _TCP6}:
        return ProxyHeader(size, "unknown")
    width = 4 if family == _TCP4 else 16
    block = octets[_FIXED_BYTES : _FIXED_BYTES + _ADDRESS_BYTES[family]]
    source, destination = (
        (_canonical(ipaddress.ip_address(block[at * width : (at + 1) * width])), int.from_bytes(port))
        for at, port in enumerate((block[-4:-2], block[-2:]))
    )
    return ProxyHeader(size, "client", source, destination)


def _check_tlvs(header: bytes, at: int) -> None:
    """TLVs have to fill the header to its end; of what they say, only the checksum is looked at (§2.2.3)."""
    checked = False
    while at < len(header):
        value = at + _TLV_HEAD_BYTES
        end = value + int.from_bytes(header[at + 1 : value])
        if end > len(header) or value > len(header):
            raise MalformedError("a TLV does not end where the header does")
        if header[at] == _CRC32C_TLV:
            if end - value != 4 or checked:
                raise MalformedError("not one checksum of four octets")
            checked = True
            if crc32c(header[:value] + bytes(4) + header[end:]) != int.from_bytes(header[value:end]):
                raise MalformedError("the checksum is wrong")
        at = end


def _table() -> tuple[int, ...]:
    entries = []
    for octet in range(256):
        for _ in range(8):
            octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
        entries.append(octet)
    return tuple(entries)


_CRC32C: Final = _table()


def crc32c(octets: bytes) -> int:
    """CRC-32C (Castagnoli)."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = _CRC32C[(crc ^ octet) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
