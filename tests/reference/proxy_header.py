"""The plain twin of inbound.proxy_header: one regular expression for version 1, `socket` and `struct` for version 2."""

from __future__ import annotations

import re
import socket
import struct

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
_PORT = rb"(0|[1-9][0-9]{0,4})"
_V1 = re.compile(
    rb"PROXY (?:(UNKNOWN)(?: .*?)?|TCP4 ([0-9.]+) ([0-9.]+) " + _PORT + rb" " + _PORT
    + rb"|TCP6 ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) " + _PORT + rb" " + _PORT + rb")\r\n",
    re.DOTALL,
)  # fmt: skip
_LONGEST = 4096

Found = tuple[int, str, tuple[str, int], tuple[str, int]]


def read(octets: bytes) -> Found | type[ValueError] | None:
    """(size, kind, source, destination); None: not whole; ValueError: none."""
    for begin, whole in ((SIGNATURE, _version_2), (b"PROXY ", _version_1)):
        if octets[: len(begin)] == begin:
            return whole(octets)
        if octets == begin[: len(octets)]:
            return None
    return ValueError


def _version_1(octets: bytes) -> Found | type[ValueError] | None:
    line, end, _ = octets[:107].partition(b"\r\n")
    if not end:
        return None if len(octets) < 107 else ValueError
    match = _V1.fullmatch(line + end)
    if match is None:
        return ValueError
    size = match.end()
    unknown, *words = match.groups()
    if unknown:
        return size, "unknown", ("", 0), ("", 0)
    family, (source, destination, *ports) = (
        (socket.AF_INET, words[:4]) if words[0] else (socket.AF_INET6, words[4:])
    )  # fmt: skip
    try:
        here, there = (_shown(socket.inet_pton(family, word.decode())) for word in (source, destination))
    except OSError:
        return ValueError
    if max(map(int, ports)) > 65535:
        return ValueError
    return size, "client", (here, int(ports[0])), (there, int(ports[1]))


def _shown(packed: bytes) -> str:
    if packed.startswith(bytes(10) + b"\xff\xff"):
        packed = packed[12:]
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed)
    # Not inet_ntop, which writes addresses below ::1:0:0 with dots.
    groups = ":".join(f"{group:x}" for group in struct.unpack("!8H", packed))
    runs = sorted(re.finditer(r"\b0(?::0)+\b", groups), key=lambda run: -len(run[0]))
    if not runs:
        return groups
    return f"{groups[: runs[0].start()].rstrip(':')}::{groups[runs[0].end() :].lstrip(':')}"


def _version_2(octets: bytes) -> Found | type[ValueError] | None:
    if octets[12:13] not in {b"", b"\x20", b"\x21"}:
        return ValueError
    if len(octets) < 16:
        return None
    local = octets[12] == 0x20
    family, length = struct.unpack("!BH", octets[13:16])
    if length > _LONGEST - 16:
        return ValueError
    layout = {0x00: "", 0x11: "!4s4sHH", 0x21: "!16s16sHH", 0x31: "!108s108s"}.get(family)
    if not local and (layout is None or struct.calcsize(layout) > length):
        return ValueError
    block = octets[16 : 16 + length]
    if len(block) < length:
        return None
    if local:
        return 16 + length, "local", ("", 0), ("", 0)
    assert layout is not None
    if not _tlvs_are_good(octets[: 16 + length], 16 + struct.calcsize(layout)):
        return ValueError
    if family not in {0x11, 0x21}:
        return 16 + length, "unknown", ("", 0), ("", 0)
    here, there, *ports = struct.unpack_from(layout, block)
    return 16 + length, "client", (_shown(here), ports[0]), (_shown(there), ports[1])


def _tlvs_are_good(header: bytes, start: int) -> bool:
    checksums = []
    while rest := header[start:]:
        if len(rest) < 3:
            return False
        kind, length = struct.unpack("!BH", rest[:3])
        if len(rest) < 3 + length:
            return False
        if kind == 3:
            checksums.append((start + 3, rest[3 : 3 + length]))
        start += 3 + length
    if not checksums:
        return True
    at, value = checksums[0]
    if len(checksums) > 1 or len(value) != 4:
        return False
    return crc32c(header[:at] + b"\0\0\0\0" + header[at + 4 :]) == struct.unpack("!I", value)[0]


def crc32c(octets: bytes) -> int:
    """Bit by bit: the remainder of a division of polynomials."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF
