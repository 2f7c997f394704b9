"""The configuration: one TOML file, decoded to frozen structs. All defaults live here.

Promise: what `load` returns can be used. An unknown or impossible key is a ConfigError that names the key, the
file and the nearest valid key. Units are in the key names: `_s` seconds, `_bytes` octets.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from postroika.errors import ConfigError

DEFAULT_PATHS = (Path("postroika.toml"), Path("/etc/postroika/postroika.toml"))
MiB = 1024 * 1024


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Server(_Section, frozen=True, kw_only=True):
    """Who we are and where our files are. Relative paths are relative to the directory of the config file."""

    hostname: str = ""
    workers: int = 0
    spool: str = "var/spool"
    control: str = "var/control.sock"


class Listener(_Section, frozen=True, kw_only=True):
    """One address to accept SMTP on.

    `bare_newlines`: what to do with a CR or LF that is not part of CRLF: "refuse" or "normalise" (for trusted
    networks whose software writes bare LF).
    """

    address: str
    bare_newlines: Literal["refuse", "normalise"] = "refuse"


class Relay(_Section, frozen=True, kw_only=True):
    """Who may send where: `networks` may relay to anywhere, everyone else only to `domains`."""

    networks: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    domains: list[str] = msgspec.field(default_factory=list)


class Route(_Section, frozen=True, kw_only=True):
    """Where mail for some domains goes: "mx", "smtp://host:port", or a list of the latter tried in order."""

    domains: list[str]
    next_hop: str | list[str] = "mx"


class Dns(_Section, frozen=True, kw_only=True):
    """How names are looked up. `allow_private`: networks, otherwise refused, that an answer may point into."""

    servers: list[str] = msgspec.field(default_factory=list)
    timeout_s: float = 10.0
    cache_entries: int = 20_000
    max_ttl_s: float = 3600.0
    negative_ttl_s: float = 60.0
    max_mx: int = 20
    max_addresses: int = 30
    mx_port: int = 25
    ipv6: Literal["prefer", "equal", "after_ipv4", "never"] = "equal"
    allow_private: list[str] = msgspec.field(default_factory=list)


class Limits(_Section, frozen=True, kw_only=True):
    """What one client, one session, one message may cost."""

    max_message_bytes: int = 50 * MiB
    max_recipients: int = 5000
    max_connections: int = 10_000
    max_connections_per_ip: int = 1_000
    max_bad_commands: int = 20
    max_received: int = 50
    max_header_bytes: int = 1 * MiB
    idle_timeout_s: float = 300.0
    command_timeout_s: float = 300.0
    data_timeout_s: float = 180.0
    transaction_timeout_s: float = 3600.0
    commit_timeout_s: float = 60.0
    policy_timeout_s: float = 30.0


class Delivery(_Section, frozen=True, kw_only=True):
    """How mail goes out."""

    enabled: bool = True
    ehlo_name: str = ""
    source_address: str = ""
    max_connections: int = 500
    max_connections_per_site: int = 20
    initial_connections_per_site: int = 4
    max_messages_per_connection: int = 1000
    max_recipients_per_batch: int = 100
    connection_idle_s: float = 5.0
    connect_timeout_s: float = 30.0
    greeting_timeout_s: float = 300.0
    ehlo_timeout_s: float = 300.0
    mail_timeout_s: float = 300.0
    rcpt_timeout_s: float = 300.0
    data_timeout_s: float = 120.0
    body_timeout_s: float = 180.0
    final_dot_timeout_s: float = 600.0
    quit_timeout_s: float = 5.0
    pipelining: bool = True
    chunking: bool = True
    loaded_batches: int = 20_000
    active_destinations: int = 2_000
    body_memory_bytes: int = 64 * MiB


class Retry(_Section, frozen=True, kw_only=True):
    """When to try again. `delays_s`: the last one repeats; each is jittered by ± `jitter`.

    `down_delays_s`: how long a destination that cannot be reached at all is left alone.
    """

    delays_s: list[float] = msgspec.field(default_factory=lambda: [300, 900, 1800, 3600, 7200, 14400])
    jitter: float = 0.1
    expire_after_s: float = 432_000.0
    delay_dsn_after_s: float = 14_400.0
    down_delays_s: list[float] = msgspec.field(default_factory=lambda: [30, 60, 120, 300, 600, 1800])


class Spool(_Section, frozen=True, kw_only=True):
    """`max_bytes`: how large one shard may grow (address space, not reserved disk); `low_water_bytes`: with less
    free than this, intake answers 452 and keeps the room for done-marks and bounces."""

    max_bytes: int = 256 * 1024 * MiB
    low_water_bytes: int = 64 * MiB
    lock_wait_s: float = 10.0


class Log(_Section, frozen=True, kw_only=True):
    """`events`: one JSON object a line, "" for none."""

    events: str = "var/log/events.jsonl"
    rotate_bytes: int = 256 * MiB
    keep: int = 10
    level: Literal["debug", "info", "warning", "error"] = "info"


class Sink(_Section, frozen=True, kw_only=True):
    """A sink that `serve` starts beside itself, for trying things out. `refuse` and `defer` are recipient globs."""

    address: str
    refuse: list[str] = msgspec.field(default_factory=lambda: ["bounce@*"])
    defer: list[str] = msgspec.field(default_factory=lambda: ["defer@*"])


class Config(_Section, frozen=True, kw_only=True):
    """The whole file."""

    server: Server = Server()
    listener: list[Listener] = msgspec.field(default_factory=lambda: [Listener(address="127.0.0.1:2525")])
    relay: Relay = Relay()
    route: list[Route] = msgspec.field(default_factory=lambda: [Route(domains=["*"])])
    dns: Dns = Dns()
    limits: Limits = Limits()
    delivery: Delivery = Delivery()
    retry: Retry = Retry()
    spool: Spool = Spool()
    log: Log = Log()
    sink: Sink | None = None


def find(explicit: str | None = None) -> Path:
    """The file to use: `explicit`, or the first of DEFAULT_PATHS that exists.

    Raises:
        ConfigError: there is none.
    """
    if explicit is not None:
        return Path(explicit)
    for path in DEFAULT_PATHS:
        if path.exists():
            return path
    tried = " and ".join(str(path) for path in DEFAULT_PATHS)
    raise ConfigError(f"no config file: tried {tried}; name one with --config FILE")


def load(path: Path) -> Config:
    """Read, decode and check `path`.

    Raises:
        ConfigError: unreadable, not TOML, or a key that is unknown or impossible.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """Like `load`, from a string; `path` is named in errors and is the base of relative paths."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    for key, known in _unknown_keys(raw):
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        raise ConfigError(f"{path}: unknown key {key!r}; {hint}")
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_plain(str(error))}") from None
    if not config.server.hostname:
        hostname = socket.getfqdn()
        server = msgspec.structs.replace(
            config.server, hostname=hostname if "." in hostname else "localhost.localdomain"
        )
        config = msgspec.structs.replace(config, server=server)
    for key, problem in _impossible(config):
        raise ConfigError(f"{path}: {key}: {problem}")
    return _anchored(config, path.absolute().parent)


def _plain(error: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.server.workers`" with the key first."""
    text, _, where = error.partition(" - at ")
    return f"{where.strip('`').removeprefix('$.')}: {text}" if where else text


def _unknown_keys(raw: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Each unknown key with its path, and the keys that are known in its place."""
    sections = {f.name: f for f in msgspec.structs.fields(Config)}
    kinds: dict[str, type[msgspec.Struct]] = {
        "server": Server, "listener": Listener, "relay": Relay, "route": Route, "dns": Dns, "limits": Limits,
        "delivery": Delivery, "retry": Retry, "spool": Spool, "log": Log, "sink": Sink,
    }  # fmt: skip
    for name, value in raw.items():
        if name not in sections:
            yield name, list(sections)
            continue
        known = [f.name for f in msgspec.structs.fields(kinds[name])]
        tables = value if isinstance(value, list) else [value]
        for i, table in enumerate(tables):
            if isinstance(table, dict):
                where = f"{name}[{i}]" if isinstance(value, list) else name
                yield from ((f"{where}.{key}", known) for key in table if key not in known)


_HOSTNAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)


def split_host_port(text: str, default_port: int | None = None) -> tuple[str, int]:
    """ "host:port", "[::1]:port", "1.2.3.4" (with a default) to host without brackets and port.

    Raises:
        ValueError: not of that form, or the port is not in 0–65535.
    """
    host, port_text = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not [address]:port")
        port_text = rest[1:]
        ipaddress.IPv6Address(host)
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    elif text.count(":") > 1:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as [::1]:25")
    if not port_text:
        if default_port is None:
            raise ValueError(f"{text!r} has no port")
        return host, default_port
    if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise ValueError(f"{port_text!r} is not a port")
    return host, int(port_text)


def parse_next_hop(text: str) -> tuple[str, int]:
    """ "smtp://host[:port]" to host and port.

    Raises:
        ValueError: something else.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme != "smtp":
        raise ValueError(f'{text!r} is neither "mx" nor smtp://host:port')
    host, port = split_host_port(rest, 25)
    if not _is_host(host) or port == 0:
        raise ValueError(f"{text!r} has no usable host and port")
    return host, port


def _is_host(text: str) -> bool:
    return bool(_HOSTNAME.fullmatch(text)) or _ip_problem(text) is None


def _ip_problem(text: str) -> str | None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        return str(error)
    return None


def _address_problem(text: str) -> str | None:
    try:
        host, _ = split_host_port(text)
    except ValueError as error:
        return str(error)
    return _ip_problem(host)


def _impossible(config: Config) -> Iterator[tuple[str, str]]:
    """Values of the right type that cannot be meant."""
    if not _HOSTNAME.fullmatch(config.server.hostname):
        yield "server.hostname", f"{config.server.hostname!r} is not a host name"
    if not 0 <= config.server.workers <= 256:
        yield "server.workers", "must be 0 (one per core) to 256"
    if not config.listener:
        yield "listener", "at least one [[listener]] is needed"
    addresses = [listener.address for listener in config.listener]
    for i, address in enumerate(addresses):
        if problem := _address_problem(address):
            yield f"listener[{i}].address", problem
        if address in addresses[:i] and not address.endswith(":0"):
            yield f"listener[{i}].address", f"{address} is listed twice"
    yield from _bad_networks("relay.networks", config.relay.networks)
    yield from _bad_networks("dns.allow_private", config.dns.allow_private)
    yield from _bad_domains("relay.domains", config.relay.domains)
    for i, route in enumerate(config.route):
        if not route.domains:
            yield f"route[{i}].domains", "names no domain"
        yield from _bad_domains(f"route[{i}].domains", route.domains)
        if route.next_hop == []:
            yield f"route[{i}].next_hop", "names no host"
        if route.next_hop != "mx":
            hops = [route.next_hop] if isinstance(route.next_hop, str) else route.next_hop
            for hop in hops:
                try:
                    parse_next_hop(hop)
                except ValueError as error:
                    yield f"route[{i}].next_hop", str(error)
    for i, server in enumerate(config.dns.servers):
        try:
            host, _ = split_host_port(server, 53)
        except ValueError as error:
            yield f"dns.servers[{i}]", str(error)
        else:
            if problem := _ip_problem(host):
                yield f"dns.servers[{i}]", problem
    for key, delays in (("retry.delays_s", config.retry.delays_s), ("retry.down_delays_s", config.retry.down_delays_s)):
        if not delays or min(delays) <= 0:
            yield key, "needs at least one delay, all above 0"
    if not 0 <= config.retry.jitter < 1:
        yield "retry.jitter", "must be at least 0 and below 1"
    if config.delivery.source_address and (problem := _ip_problem(config.delivery.source_address)):
        yield "delivery.source_address", problem
    if config.delivery.ehlo_name and not _HOSTNAME.fullmatch(config.delivery.ehlo_name):
        yield "delivery.ehlo_name", f"{config.delivery.ehlo_name!r} is not a host name"
    if config.limits.max_recipients < 100:
        yield "limits.max_recipients", "must be at least 100 (RFC 5321 §4.5.3.1.8)"
    if config.sink is not None and (problem := _address_problem(config.sink.address)):
        yield "sink.address", problem
    for name in ("limits", "delivery", "retry", "spool", "dns", "log"):
        yield from _not_positive(name, getattr(config, name))


_MAY_BE_ZERO = {"delay_dsn_after_s", "jitter", "low_water_bytes", "lock_wait_s", "negative_ttl_s", "keep", "max_ttl_s"}


def _not_positive(name: str, section: msgspec.Struct) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if value < 0 or math.isnan(value) or (value == 0 and field.name not in _MAY_BE_ZERO):
            yield f"{name}.{field.name}", f"{value} is not above 0"


def _bad_networks(key: str, networks: list[str]) -> Iterator[tuple[str, str]]:
    for i, network in enumerate(networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield f"{key}[{i}]", str(error)


def _bad_domains(key: str, domains: list[str]) -> Iterator[tuple[str, str]]:
    for i, domain in enumerate(domains):
        if domain == "*" or (domain.startswith("[") and domain.endswith("]")):
            continue
        try:
            ascii_form = (
                domain.removeprefix(".").encode("idna").decode() if not domain.isascii() else domain.removeprefix(".")
            )
        except UnicodeError:
            ascii_form = ""
        if not _HOSTNAME.fullmatch(ascii_form):
            yield f"{key}[{i}]", f'{domain!r} is not a domain, ".subdomains" or "*"'


def _anchored(config: Config, base: Path) -> Config:
    """The same config with its file names made absolute."""

    def absolute(name: str) -> str:
        return str(base / name) if name else ""

    server = msgspec.structs.replace(
        config.server, spool=absolute(config.server.spool), control=absolute(config.server.control)
    )
    log = msgspec.structs.replace(config.log, events=absolute(config.log.events))
    return msgspec.structs.replace(config, server=server, log=log)
