"""`postroika dkim`: makes signing keys, shows their DNS records, looks at the signatures of a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click

from postroika.cli import Verbs
from postroika.cli._shared import config_option, json_option, load_config, print_json

if TYPE_CHECKING:
    from pathlib import Path

_MOST_MESSAGE_BYTES = 128 * 1024 * 1024
_DNS_TIMEOUT_S = 10.0


@click.group("dkim", cls=Verbs)
def command() -> None:
    """Signing keys and signatures (DKIM)."""


@command.command("keygen")
@click.option("--algorithm", "-a", type=click.Choice(["rsa", "ed25519"]), default="rsa", show_default=True)
@click.option("--bits", type=click.IntRange(2048, 4096), show_default="2048", help="Of an RSA key.")
@click.option("--domain", "-d", help="Print the DNS record for this domain (needs --selector).")
@click.option("--selector", "-s", help="The name of the key.")
@click.argument("file", type=click.Path(dir_okay=False))
def keygen(algorithm: str, bits: int | None, domain: str | None, selector: str | None, file: str) -> None:
    """Make a private key in FILE, which must not exist.

    Only its owner can read it. Keys are never overwritten.
    """
    import os
    from pathlib import Path

    from postroika.errors import PostroikaError
    from postroika.signing import key

    if (domain is None) != (selector is None):
        raise click.UsageError("--domain and --selector go together")
    if bits is not None and algorithm != "rsa":
        raise click.UsageError(f"--bits is of RSA keys; an {algorithm} key has always 256")
    if domain is not None and selector is not None:
        _check_names(selector, domain)
    made = key.generate(algorithm, bits or 2048)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(made)
    except FileExistsError:
        raise PostroikaError(f"{file}: is there already, and keys are never overwritten; name another file") from None
    except FileNotFoundError:
        raise PostroikaError(f"{file}: there is no directory {Path(file).parent}; make it first") from None
    except OSError as error:
        raise PostroikaError(f"{file}: cannot write it: {error.strerror}") from error
    click.echo(f"Wrote {file}", err=True)
    if domain is not None and selector is not None:
        click.echo(_zone_line(selector, domain, Path(file)))


@command.command("show-dns")
@config_option
@click.option("--key", "key_file", type=click.Path(dir_okay=False), help="A key that no config names yet …")
@click.option("--domain", "-d", help="… its domain …")
@click.option("--selector", "-s", help="… and its selector.")
def show_dns(config_file: str | None, key_file: str | None, domain: str | None, selector: str | None) -> None:
    """Print the DNS records of all keys in the config.

    They are lines for a zone file. With --key, --domain and --selector: that of one key, without a config.
    """
    from pathlib import Path

    given = [option is not None for option in (key_file, domain, selector)]
    if any(given) and not all(given):
        raise click.UsageError("--key, --domain and --selector go together")
    if key_file is not None and domain is not None and selector is not None:
        _check_names(selector, domain)
        click.echo(_zone_line(selector, domain, Path(key_file)))
        return
    path, config = load_config(config_file)
    if not config.dkim:
        click.echo(f"postroika: {path} has no [[dkim]] key", err=True)
    lines = [_zone_line(entry.selector, entry.signing_domain, Path(entry.key)) for entry in config.dkim]
    for line in dict.fromkeys(lines):
        click.echo(line)


def _check_names(selector: str, domain: str) -> None:
    """Raises UsageError."""
    from postroika.config import canonical_domain
    from postroika.config.addresses import is_selector

    try:
        if canonical_domain(domain)[0] in ".[":
            raise ValueError(f"{domain!r} cannot have a key in the DNS")
    except ValueError as error:
        raise click.UsageError(f"--domain: {error}") from None
    if not is_selector(selector):
        raise click.UsageError(f"--selector: {selector!r} is not a selector: labels of a domain name")


def _zone_line(selector: str, domain: str, file: Path) -> str:
    from postroika.config import canonical_domain
    from postroika.errors import ConfigError
    from postroika.signing.key import load
    from postroika.signing.record import zone_line
    from postroika.signing.ring import read_file

    try:
        return zone_line(selector, canonical_domain(domain), load(read_file(str(file)), min_rsa_bits=1024))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


@command.command("verify")
@click.argument("message", type=click.File("rb"), default="-")
@click.option(
    "--keys",
    type=click.File("r", encoding="utf-8", errors="replace"),
    help="Take the keys from this file, of lines as `show-dns` prints, and ask no DNS.",
)
@click.option("--server", metavar="ADDRESS", help="Ask this name server.")
@click.option("--most", type=click.IntRange(1, 100), default=10, show_default=True, help="Signatures to look at.")
@json_option
def verify(message: BinaryIO, keys: TextIO | None, server: str | None, most: int, as_json: bool) -> int:
    """Look at the signatures of a message, as a receiver does.

    MESSAGE is a file; without it, standard input. Exit code 0 if all that were looked at are good and there is one;
    else 1.
    """
    from postroika.cli import ExitCode
    from postroika.errors import PostroikaError
    from postroika.signing import verify as verifier
    from postroika.signing.record import read_zone

    octets = message.read(_MOST_MESSAGE_BYTES + 1)
    if len(octets) > _MOST_MESSAGE_BYTES:
        raise PostroikaError(f"the message is larger than {_MOST_MESSAGE_BYTES} octets")
    lookup = read_zone(keys.read()).get if keys is not None else _dns_lookup(server)
    verdicts = verifier.verify(octets, lookup, most=most)
    if as_json:
        print_json([verdict._asdict() for verdict in verdicts])
    else:
        for verdict in verdicts:
            what = f"d={verdict.domain} s={verdict.selector} a={verdict.algorithm}"
            reason = f": {verdict.reason}" if verdict.reason else ""
            click.echo(_printable(f"{'good' if verdict.passed else 'BAD '} {what}{reason}"))
    left = verifier.count(octets) - len(verdicts)
    if left > 0:
        click.echo(f"{left} more signatures were not looked at", err=True)
    if not verdicts:
        click.echo("no signature", err=True)
    return ExitCode.OK if verdicts and all(verdict.passed for verdict in verdicts) else ExitCode.FAILED


def _printable(line: str) -> str:
    """What strangers wrote does nothing to the terminal."""
    return "".join(character if character.isprintable() else "?" for character in line)


def _dns_lookup(server: str | None) -> Callable[[str], bytes | None]:
    """Asks the name server of the system, or another one."""
    import dns.exception
    import dns.resolver

    from postroika.errors import ConfigError

    resolver = dns.resolver.Resolver(configure=server is None)
    if server is not None:
        from postroika.config.addresses import split_ip_port

        try:
            address, port = split_ip_port(server, 53)
        except ValueError as error:
            raise ConfigError(f"--server: {error}") from error
        resolver.nameservers, resolver.port = [address], port

    def lookup(name: str) -> bytes | None:
        try:
            answer = resolver.resolve(name, "TXT", lifetime=_DNS_TIMEOUT_S)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return None
        except dns.exception.DNSException as error:
            raise OSError(str(error)) from error
        # More than one record is no record (RFC 6376 §3.6.2.2: the result is undefined).
        return b"".join(answer[0].strings) if len(answer) == 1 else None

    return lookup
