"""Finds what is wrong with a config file, in words for the person who wrote it.

Four looks, each of which gives (key, problem): `unknown_keys` at the parsed TOML, `conversion_problem` at what msgspec
said about types and bounds, `impossible` at values of the right type that cannot be meant, `unusable_files` at files.
What `impossible` knows of accounts, routes, policy and signing is in the modules of that name.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from postroika.config.accounts import account_problems
from postroika.config.addresses import (
    canonical_certificate_name,
    canonical_domain,
    is_host_name,
    is_ip,
    parse_network,
    split_ip_port,
)
from postroika.config.policy import policy_problems
from postroika.config.routes import route_problems
from postroika.config.sections import SECTIONS, Config
from postroika.config.signing import signing_problems

# The words of TOML for those of msgspec.
_WORDS = {
    "object": "a table",
    "array": "a list",
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}

# sizeof(sun_path) is 108 on Linux, one octet of it for the NUL: unix(7).
_MAX_SOCKET_PATH = 107


def unknown_keys(raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each key that no section knows, with the nearest one that is known there."""
    for name, value in raw.items():
        if name not in SECTIONS:
            owners = [section for section, struct in SECTIONS.items() if name in _keys(struct)]
            if owners and not isinstance(value, dict | list):
                yield name, f"unknown key; it belongs into [{owners[0]}]"
            else:
                yield name, _unknown(name, list(SECTIONS))
            continue
        known = _keys(SECTIONS[name])
        tables = value if isinstance(value, list) else [value]
        for i, table in enumerate(tables):
            where = f"{name}[{i}]" if isinstance(value, list) else name
            if isinstance(table, dict):
                yield from ((f"{where}.{key}", _unknown(key, known)) for key in table if key not in known)


def _keys(struct: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(struct)]


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; known here: {', '.join(known)}"


def conversion_problem(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's "Expected `int`, got `str` - at `$.server.workers`" as key and problem, in the words of TOML."""
    text, _, where = str(error).partition(" - at ")
    key = where.strip("`").removeprefix("$").removeprefix(".")
    section, _, name = key.partition(".")
    section = section.partition("[")[0]
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", text):
        return key, f"the key {missing[1]!r} is missing"
    if text.startswith("Invalid enum value"):
        return key, f"{text.removeprefix('Invalid enum value ')} is not one of {', '.join(_choices(section, name))}"
    text = re.sub(r"`([^`]+)`", lambda m: " or ".join(_WORDS.get(w, w) for w in m[1].split(" | ")), text)
    if key == section and text == "Expected a list, got a table":
        text += f"; write [[{section}]]"
    if key == section and text == "Expected a table, got a list":
        text += f"; write [{section}]"
    return key, text[:1].lower() + text[1:]


def _choices(section: str, name: str) -> list[str]:
    field = next(f for f in msgspec.structs.fields(SECTIONS[section]) if f.name == name)
    literal = get_args(field.type)[0]
    return [repr(choice) for choice in get_args(literal)]


def impossible(config: Config) -> Iterator[tuple[str, str]]:
    """Values of the right type that cannot be meant, in the order of the file's reference."""
    yield from _server(config)
    yield from _process(config)
    yield from _addresses(config)
    yield from _tls(config)
    yield from _relay(config)
    yield from _accounts(config)
    yield from route_problems(config)
    yield from _networks("dns.allow_private", config.dns.allow_private)
    for i, server in enumerate(config.dns.servers):
        yield from _refused(f"dns.servers[{i}]", split_ip_port, server, 53)
    if config.dns.validating and not config.dns.servers:
        yield "dns.validating", "needs dns.servers: those of the system may be anybody's, and need not check DNSSEC"
    if config.delivery.source_address and not is_ip(config.delivery.source_address):
        yield "delivery.source_address", f"{config.delivery.source_address!r} is not an IP address"
    if config.delivery.ehlo_name:
        yield from _own_name("delivery.ehlo_name", config.delivery.ehlo_name)
    yield from policy_problems(config)
    yield from signing_problems(config)
    if config.spool.low_water_bytes >= config.spool.max_bytes:
        yield (
            "spool.low_water_bytes",
            f"must be below spool.max_bytes ({config.spool.max_bytes}), or no mail is accepted",
        )


def _server(config: Config) -> Iterator[tuple[str, str]]:
    yield from _own_name("server.hostname", config.server.hostname)
    length = len(config.server.control.encode())
    if length > _MAX_SOCKET_PATH:
        yield (
            "server.control",
            f"the path of a Unix socket has at most {_MAX_SOCKET_PATH} octets, this one has {length}",
        )


def _process(config: Config) -> Iterator[tuple[str, str]]:
    process = config.process
    if not re.fullmatch("0?[0-7]{3}", process.umask):
        yield "process.umask", f"{process.umask!r} is not a mask in octal, as 077"
    if process.group and not process.user:
        yield "process.group", "needs process.user beside it"


def _own_name(key: str, name: str) -> Iterator[tuple[str, str]]:
    if not is_host_name(name):
        yield key, f"{name!r} is not a host name"


def _addresses(config: Config) -> Iterator[tuple[str, str]]:
    """Listeners and sink: IP addresses with ports, none of them twice."""
    if not config.listener:
        yield "listener", "at least one [[listener]] is needed"
    wanted = [(f"listener[{i}].address", listener.address) for i, listener in enumerate(config.listener)]
    if config.sink is not None:
        wanted.append(("sink.address", config.sink.address))
    seen: dict[tuple[str, int], str] = {}
    for key, text in wanted:
        try:
            address = split_ip_port(text)
        except ValueError as error:
            yield key, str(error)
            continue
        if address[1] and address in seen:
            yield key, f"{text} is already the address of {seen[address].removesuffix('.address')}"
        seen.setdefault(address, key)
        if key == "sink.address" and not ipaddress.ip_address(address[0]).is_loopback:
            yield key, f"{text}: the sink swallows all mail, so it listens on loopback only"


def _tls(config: Config) -> Iterator[tuple[str, str]]:
    """What belongs to TLS stands where there is TLS, and all of it does."""
    for i, listener in enumerate(config.listener):
        for key in ("certificate", "key"):
            if listener.tls != "none" and not getattr(listener, key):
                yield f"listener[{i}].{key}", f'is needed with tls = "{listener.tls}"'
        for key in ("certificate", "key", "client_ca"):
            if listener.tls == "none" and getattr(listener, key):
                yield f"listener[{i}].{key}", 'has no use with tls = "none"'
        if listener.require_tls and listener.tls == "none":
            yield f"listener[{i}].require_tls", 'cannot be had with tls = "none"'
        elif listener.require_tls and listener.auth_without_tls:
            yield f"listener[{i}].require_tls", "contradicts auth_without_tls: nothing is taken without TLS"
        asks = listener.client_certificates != "none"
        if asks and listener.tls == "none":
            yield f"listener[{i}].client_certificates", 'cannot be had with tls = "none"'
        elif asks and not listener.client_ca:
            yield f"listener[{i}].client_ca", f'is needed with client_certificates = "{listener.client_certificates}"'
        elif listener.client_ca and listener.tls != "none" and not asks:
            yield f"listener[{i}].client_ca", 'has no use with client_certificates = "none"'
    if config.certificate and all(listener.tls == "none" for listener in config.listener):
        yield "certificate", "has no use: no [[listener]] has TLS"
    taken: dict[str, int] = {}
    for i, entry in enumerate(config.certificate):
        for j, text in enumerate(entry.names):
            key = f"certificate[{i}].names[{j}]"
            try:
                name = canonical_certificate_name(text)
            except ValueError as error:
                yield key, str(error)
                continue
            if name in taken:
                yield key, f"{text!r} is already a name of certificate[{taken[name]}]"
            taken.setdefault(name, i)


def unusable_files(config: Config) -> Iterator[tuple[str, str]]:
    """Files that the server needs and cannot use."""
    entries = [(f"listener[{i}]", entry) for i, entry in enumerate(config.listener) if entry.tls != "none"]
    if not entries and not config.sts.ca:
        return
    import ssl  # takes longer than all of this module, and few commands need it

    from postroika.config.certificates import UnusableFileError, load_authorities, load_pair

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pairs = [(where, entry.certificate, entry.key) for where, entry in entries]
    pairs += [(f"certificate[{i}]", entry.certificate, entry.key) for i, entry in enumerate(config.certificate)]
    for where, certificate, key in pairs:
        try:
            load_pair(context, certificate, key)
        except UnusableFileError as error:
            yield f"{where}.{error.key}", str(error)
    for where, listener in entries:
        try:
            if listener.client_ca:
                load_authorities(context, listener.client_ca)
        except UnusableFileError as error:
            yield f"{where}.client_ca", str(error)
    try:
        if config.sts.ca:
            load_authorities(context, config.sts.ca)
    except UnusableFileError as error:
        yield "sts.ca", str(error)


def _relay(config: Config) -> Iterator[tuple[str, str]]:
    yield from _networks("relay.networks", config.relay.networks)
    for i, network in enumerate(config.relay.networks):
        if _is_everyone(network):
            yield f"relay.networks[{i}]", f"{network} is everyone: an open relay"
    for i, listener in enumerate(config.listener):
        for key in ("proxy_from", "xclient_from"):
            networks = getattr(listener, key)
            yield from _networks(f"listener[{i}].{key}", networks)
            for j, network in enumerate(networks):
                if _is_everyone(network):
                    yield f"listener[{i}].{key}[{j}]", f"{network} is everyone, and everyone could be anybody"
    for i, domain in enumerate(config.relay.domains):
        if domain == "*":
            yield f"relay.domains[{i}]", '"*" would accept mail from anyone to anywhere: an open relay'
        else:
            yield from _refused(f"relay.domains[{i}]", canonical_domain, domain)


def _accounts(config: Config) -> Iterator[tuple[str, str]]:
    yield from account_problems(config.account)
    for i, listener in enumerate(config.listener):
        if listener.role != "submission":
            continue
        if not config.account and not config.accounts.file:
            yield f"listener[{i}].role", "submission needs accounts: name a file in accounts.file, or write [[account]]"
        if listener.tls == "none" and not listener.auth_without_tls and not listener.xclient_from:
            yield f"listener[{i}].role", 'nobody could log in: submission needs tls = "starttls" or "implicit"'


def _networks(key: str, networks: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for i, network in enumerate(networks):
        yield from _refused(f"{key}[{i}]", parse_network, network)


def _is_everyone(network: str) -> bool:
    """However it is written: "0.0.0.0/0.0.0.0" as well."""
    try:
        return ipaddress.ip_network(network).prefixlen == 0
    except ValueError:
        return False  # reported by _networks


def _refused(key: str, read: Any, *arguments: object) -> Iterator[tuple[str, str]]:
    """The problem of a value that `read` raises ValueError for."""
    try:
        read(*arguments)
    except ValueError as error:
        yield key, str(error)
