"""From a file to a Config that can be used: find it, decode it, check it, settle what it leaves open.

Settled means: our host name is filled in, paths are absolute, domains are in canonical form.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from postroika.config.addresses import canonical_certificate_name, canonical_domain, is_host_name
from postroika.config.check import conversion_problem, impossible, unknown_keys, unusable_files
from postroika.config.secret import secret_from
from postroika.config.sections import Config
from postroika.config.sections_outbound import Tlsrpt
from postroika.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

DEFAULT_PATHS = (Path("postroika.toml"), Path("/etc/postroika/postroika.toml"))


def find(explicit: str | None = None, among: Sequence[Path] = DEFAULT_PATHS) -> Path:
    """The file to use: `explicit`, or the first of `among` that exists.

    Raises:
        ConfigError: there is none.
    """
    if explicit is not None:
        return Path(explicit)
    for path in among:
        if path.exists():
            return path
    tried = " and ".join(str(path) for path in among)
    raise ConfigError(
        f"no config file: tried {tried}; name one with --config FILE, or make one with "
        f"`postroika default-config > {among[0]}`"
    )


def load(path: Path) -> Config:
    """Read, decode, check and settle `path`.

    Raises:
        ConfigError: unreadable, not TOML, or a key that is unknown or impossible: one line a problem.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at octet {error.start}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """Like `load`, from a string; `path` is named in errors and its directory is the base of relative paths."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    _raise_for(path, list(unknown_keys(raw)))
    try:
        config = msgspec.convert(raw, Config, dec_hook=secret_from)
    except msgspec.ValidationError as error:
        _raise_for(path, [conversion_problem(error)])
        raise
    config = _anchored(config, path.absolute().parent)
    _raise_for(path, list(impossible(config)))
    return _canonical(config)


def check_files(path: Path, config: Config) -> None:
    """Look at the files that `config`, read from `path`, names. Not part of `load`: who only asks a running server
    something need not be allowed to read its keys.

    Raises:
        ConfigError: one that the server needs is missing, unreadable or not what it has to be: one line a problem.
    """
    _raise_for(path, list(unusable_files(config)))


def _raise_for(path: Path, problems: list[tuple[str, str]]) -> None:
    if problems:
        raise ConfigError("\n".join(f"{path}: {key}: {problem}" for key, problem in problems))


def _anchored(config: Config, base: Path) -> Config:
    """The same config with our name filled in and its file names made absolute."""
    server = config.server
    server = replace(
        server,
        hostname=server.hostname or qualified(os.uname().nodename),
        spool=str(base / server.spool),
        control=str(base / server.control),
    )
    return replace(
        config,
        server=server,
        log=_with_absolute(config.log, base, "events"),
        delivery=_with_absolute(config.delivery, base, "tls_ca"),
        sts=_with_absolute(config.sts, base, "ca"),
        route=tuple(_with_absolute(entry, base, "auth", "certificate", "key") for entry in config.route),
        listener=tuple(_with_absolute(entry, base, "certificate", "key", "client_ca") for entry in config.listener),
        certificate=tuple(_with_absolute(entry, base, "certificate", "key") for entry in config.certificate),
        dkim=tuple(_with_absolute(entry, base, "key") for entry in config.dkim),
        accounts=_with_absolute(config.accounts, base, "file"),
        policy=_with_absolute(config.policy, base, "hooks"),
    )


def _with_absolute(section: S, base: Path, *keys: str) -> S:
    """The same section with the file names absolute that are not empty."""
    return replace(section, **{key: str(base / name) for key in keys if (name := getattr(section, key))})


def qualified(node: str) -> str:
    """The name a machine has by itself, made a domain as Postfix does; never asks the DNS, which may hang."""
    name = node if "." in node else f"{node}.localdomain"
    return name if is_host_name(name) else "localhost.localdomain"


def _canonical(config: Config) -> Config:
    """The same config with lower-case A-label domains, so that others compare bytes."""
    relay = replace(config.relay, domains=tuple(map(canonical_domain, config.relay.domains)))
    route = tuple(
        replace(route, domains=tuple(d if d == "*" else canonical_domain(d) for d in route.domains))
        for route in config.route
    )
    certificate = tuple(
        replace(entry, names=tuple(map(canonical_certificate_name, entry.names))) for entry in config.certificate
    )
    dkim = tuple(
        replace(
            entry,
            domain=entry.domain if entry.domain == "*" else canonical_domain(entry.domain),
            signing_domain=canonical_domain(entry.signing_domain or entry.domain.lstrip(".")),
        )
        for entry in config.dkim
    )
    blocklist = tuple(replace(entry, zone=canonical_domain(entry.zone)) for entry in config.blocklist)
    return replace(
        config,
        relay=relay,
        route=route,
        certificate=certificate,
        dkim=dkim,
        blocklist=blocklist,
        tlsrpt=_reporter(config.tlsrpt),
    )


def _reporter(tlsrpt: Tlsrpt) -> Tlsrpt:
    """The same with what it leaves open."""
    if not tlsrpt.contact:
        return tlsrpt
    local, _, domain = tlsrpt.contact.rpartition("@")
    domain = canonical_domain(domain)
    return replace(tlsrpt, contact=f"{local}@{domain}", organization=tlsrpt.organization or domain)
