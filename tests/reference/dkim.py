"""The plain twin of kernels.dkim: relaxed canonicalisation of a whole body and a whole header, by regular expressions.

Source: RFC 6376 §3.4.2, §3.4.4, §5.4.2.
"""

from __future__ import annotations

import re

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL)
MOST_OF_A_NAME, MOST_OVERSIGNED = 16, 64


def relaxed_body(body: bytes) -> bytes:
    lines = [re.sub(rb"[ \t]+", b" ", line).removesuffix(b" ") for line in body.split(b"\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def fields(header: bytes) -> list[tuple[bytes, bytes]]:
    """Name and value of each field, the value with its line ends."""
    found: list[tuple[bytes, bytes]] = []
    in_field = False
    for line in re.findall(rb"[^\n]*\n|[^\n]+", header):
        if line[0] in b" \t":
            if in_field:
                found[-1] = (found[-1][0], found[-1][1] + line)
            continue
        field = _FIELD.match(line)
        in_field = field is not None
        if field is not None:
            found.append((field[1], field[2]))
    return found


def relaxed(name: bytes, value: bytes) -> bytes:
    unfolded = re.sub(rb"\r?\n", b"", value)
    return name.lower() + b":" + re.sub(rb"[ \t]+", b" ", unfolded).strip(b" ") + b"\r\n"


def values(header: bytes, name: bytes) -> list[bytes]:
    return [value for key, value in fields(header) if key.lower() == name.lower()]


def signed(header: bytes, names: tuple[bytes, ...], oversigned: int) -> tuple[bytes, bytes]:
    named: list[bytes] = []
    octets = b""
    for number, name in enumerate(names):
        taken = values(header, name)[::-1]
        if number >= oversigned:
            taken = taken[:MOST_OF_A_NAME]
        elif len(taken) > MOST_OVERSIGNED:
            raise ValueError(f"more than {MOST_OVERSIGNED} fields {name.decode()}")
        named += [name] * (len(taken) + (number < oversigned))
        octets += b"".join(relaxed(name, value) for value in taken)
    return b":".join(named), octets
