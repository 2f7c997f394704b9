"""The plain twin of kernels.command, on regular expressions."""

from __future__ import annotations

import re

INCOMPLETE, BARE_LF, BARE_CR, NUL = -1, -2, -3, -4
VERBS = ["", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP", "STARTTLS",
         "AUTH", "XCLIENT"]  # fmt: skip
FOREIGN = 16
_HTTP = {b"GET", b"PUT", b"PRI", b"POST", b"HEAD", b"PATCH", b"TRACE", b"DELETE", b"CONNECT", b"OPTIONS"}

_ATOM = rb"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~\x80-\xff]+"
_QUOTED = rb'"(?:[\x20!#-\[\]-~\x80-\xff]|\\[\x20-~])*"'
_LOCAL = rb"(?:" + _ATOM + rb"(?:\." + _ATOM + rb")*|" + _QUOTED + rb")"
_LABEL = rb"[A-Za-z0-9_\x80-\xff](?:[A-Za-z0-9_\-\x80-\xff]*[A-Za-z0-9_\x80-\xff])?"
_DOMAIN = rb"(?:" + _LABEL + rb"(?:\." + _LABEL + rb")*|\[[!-Z^-~]+\])"
_PATH = re.compile(
    rb" *<(?:(?P<route>@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*:)?(?P<local>" + _LOCAL + rb")(?:@(?P<domain>"
    + _DOMAIN + rb"))?)?>(?= |\Z)"
)  # fmt: skip
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\xff]+))?")


def scan_command(buffer: bytes, start: int, lf_ends: bool) -> tuple[int, bytes, int]:
    rest = buffer[start:]
    if rest[:1] == b"\x16":
        return FOREIGN, b"", len(buffer)
    line, lf, _ = rest.partition(b"\n")
    if not lf:
        return INCOMPLETE, b"", start
    behind = start + len(line) + 1
    if line.endswith(b"\r"):
        line = line[:-1]
    elif not lf_ends:
        return BARE_LF, b"", behind
    if b"\0" in line:
        return NUL, b"", behind
    if b"\r" in line:
        return BARE_CR, b"", behind
    verb, argument = re.fullmatch(rb"([^ \t]*)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
    name = verb.decode("latin-1")
    if name and name.isascii() and name.upper() in VERBS:
        code = VERBS.index(name.upper())
    else:
        code = FOREIGN if b":" in verb[1:] or verb.upper() in _HTTP else 0
    return code, argument.strip(b" \t"), behind


def find_line_end(buffer: bytes, start: int) -> tuple[int, int]:
    line, end, _ = buffer[start:].partition(b"\r\n")
    return (start + len(line) + 2 if end else -1), line.count(b"\n")


def parse_path(argument: bytes, keyword: bytes) -> tuple[str, str, bool, bool, int] | None:
    """(local, domain, routed, utf8, end). Raises ValueError."""
    if argument[: len(keyword)].upper() != keyword or not argument[len(keyword) :].lstrip(b" ").startswith(b"<"):
        return None
    match = _PATH.match(argument, len(keyword))
    if match is None:
        raise ValueError("syntax")
    route, local, domain = (group or b"" for group in match.group("route", "local", "domain"))
    domains = [*route.removeprefix(b"@").removesuffix(b":").split(b",@"), domain]
    if len(local) > 512 or any(len(name) > 255 for name in domains):
        raise ValueError("long")
    for name in domains:
        if not name.startswith(b"[") and any(len(label) > 63 and label.isascii() for label in name.split(b".")):
            raise ValueError("long label")
    utf8 = not (local + domain).isascii()
    return local.decode(), domain.decode(), bool(route), utf8, match.end()


def parse_parameters(argument: bytes, start: int) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for part in argument[start:].split(b" "):
        if part:
            match = _PARAMETER.fullmatch(part)
            if match is None:
                raise ValueError("syntax")
            found.append((match[1].decode().upper(), None if match[2] is None else match[2].decode()))
    return found
