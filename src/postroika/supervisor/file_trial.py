"""Tries the files that a config names before a start: accounts, passwords for smarthosts, certificates, signing keys.

Promise: what would keep a worker from starting is told at once, with the key of the config, before anything is opened
or changed. What is in the files is in no text. Hooks, which are code, are tried apart (`hook_trial`); the certificates
of listeners are looked at with the config itself (`config.check_files`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from postroika.config import Config, named_files
from postroika.errors import ConfigError, PostroikaError


def no_files(config: Config) -> Iterator[str]:
    """What is named and cannot be opened to try it, a line each, with the key in front: a named pipe would stop us for
    ever, and some devices have no end."""
    for file in named_files.named(config):
        with suppress(OSError):  # told by who needs it
            mode = Path(file.path).stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                yield f"{file.key}: {file.path} is not a file"


def unusable(config: Config) -> Iterator[str]:
    """What a start is refused for, a line each, with the key in front."""
    yield from _accounts(config)
    yield from _routes(config)
    if config.dkim:
        from postroika.signing.ring import KeyRing

        try:
            KeyRing(config).load()
        except ConfigError as error:
            yield from str(error).splitlines()


def doubtful(config: Config, now: datetime) -> Iterator[str]:
    """What a start is not refused for, though nobody can want it; a line each, with the key in front.

    Args:
        now: with its time zone.
    """
    if config.accounts.file and not Path(config.accounts.file).exists():
        yield f"accounts.file: there is no {config.accounts.file} yet; `postroika account add` makes it"
    listeners = [(f"listener[{i}]", entry.certificate) for i, entry in enumerate(config.listener) if entry.certificate]
    named = [(f"certificate[{i}]", entry.certificate) for i, entry in enumerate(config.certificate)]
    routes = [(f"route[{i}]", entry.certificate) for i, entry in enumerate(config.route) if entry.certificate]
    if listeners or named or routes:
        from postroika.config.certificates import not_valid

        for where, certificate in (*listeners, *named, *routes):
            if problem := not_valid(certificate, now):
                yield f"{where}.certificate: {problem}"


def _accounts(config: Config) -> Iterator[str]:
    if not config.accounts.file and not config.account:
        return
    from postroika.policy.accounts import Accounts

    try:
        Accounts(config.account, Path(config.accounts.file) if config.accounts.file else None)
    except ConfigError as error:
        yield from (f"accounts: {line}" for line in str(error).splitlines())


def _routes(config: Config) -> Iterator[str]:
    if not config.delivery.tls_ca and not any(route.auth or route.certificate for route in config.route):
        return
    import ssl

    from postroika.config.certificates import UnusableFileError, load_authorities, load_pair
    from postroika.outbound import credentials

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for i, route in enumerate(config.route):
        if route.auth:
            try:
                credentials.read(route.auth)
            except PostroikaError as error:
                yield f"route[{i}].auth: {error}"
        if route.certificate:
            try:
                load_pair(context, route.certificate, route.key or route.certificate)
            except UnusableFileError as error:
                yield f"route[{i}].{error.key}: {error}"
    if config.delivery.tls_ca:
        try:
            load_authorities(context, config.delivery.tls_ca)
        except UnusableFileError as error:
            yield f"delivery.tls_ca: {error}"
