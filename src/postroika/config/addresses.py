"""Reads the small languages of the config file: "host:port", "smtp://host:port" and smtps://, host names, domains.

Pure functions that return the canonical form or raise ValueError with a text that can follow the key's name.
"""

from __future__ import annotations

import ipaddress
import re

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*(?!\d+$){_LABEL}")
# Names in the DNS may have underscores; our own name in EHLO may not (RFC 5321 §4.1.2, Domain).
_DNS_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}$)({_DNS_LABEL}\.)*(?!\d+$){_DNS_LABEL}")

_DEFAULT_PORTS = {"smtp": 25, "smtps": 465}


def split_host_port(text: str, default_port: int | None = None) -> tuple[str, int]:
    """ "host:port", "[::1]:port", or without the port where there is a default: to host (no brackets) and port.

    Raises:
        ValueError: not of that form, or the port is not in 0–65535.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not [address]:port")
        ipaddress.IPv6Address(host)
        colon, port_text = rest[:1], rest[1:]
    else:
        host, colon, port_text = text.partition(":")
        if ":" in port_text:
            raise ValueError(f"{text!r}: write an IPv6 address in brackets, as [::1]:25")
    if not host:
        raise ValueError(f"{text!r} names no host")
    if not colon and default_port is not None:
        return host, default_port
    if not colon:
        raise ValueError(f"{text!r} has no port")
    if not port_text.isascii() or not port_text.isdigit() or len(port_text) > 5 or int(port_text) > 65535:
        raise ValueError(f"{port_text!r} is not a port")
    return host, int(port_text)


def split_ip_port(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Like `split_host_port` for an address that is not looked up: the host is an IP address in canonical form.

    Raises:
        ValueError: it is not.
    """
    host, port = split_host_port(text, default_port)
    if not is_ip(host):
        raise ValueError(f"{host!r} is not an IP address; names are not looked up here")
    return str(ipaddress.ip_address(host)), port


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """ "10.0.0.0/8", or one address.

    Raises:
        ValueError: something else.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network, as 192.0.2.0/24 or 2001:db8::/32, nor an IP address") from None
    raise ValueError(f"{text} has bits set behind its prefix; write {meant}, or the one address without /")


def parse_next_hop(text: str) -> tuple[str, int]:
    """ "smtp://host[:port]" or "smtps://host[:port]" to host and port; `begins_with_tls` tells them apart.

    Raises:
        ValueError: something else.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        raise ValueError(f'{text!r} is neither "mx" nor smtp://host:port nor smtps://host:port')
    host, port = split_host_port(rest, _DEFAULT_PORTS[scheme])
    if port == 0 or not (_DNS_NAME.fullmatch(host) or is_ip(host)):
        raise ValueError(f"{text!r} has no usable host and port")
    return host, port


def begins_with_tls(next_hop: str) -> bool:
    """Whether a next hop is spoken to over TLS from the first octet on (RFC 8314 §3.3), instead of after STARTTLS."""
    return next_hop.startswith("smtps://")


def is_ip(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address (without brackets)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_host_name(text: str) -> bool:
    """Whether `text` can be our own name: letters, digits and hyphens, the last label not a number."""
    return _HOST_NAME.fullmatch(text) is not None


def canonical_certificate_name(text: str) -> str:
    """A name that a certificate is chosen for: a domain, or "*.domain", in canonical form.

    Raises:
        ValueError: it is none.
    """
    star = "*." if text.startswith("*.") else ""
    name = text[len(star) :]
    if not name or name[0] in ".[*":
        raise ValueError(f'{text!r} is not a name or "*.name"')
    return star + canonical_domain(name)


def is_selector(text: str) -> bool:
    """Whether `text` can name a DKIM key: labels of a domain name (RFC 6376 §3.1)."""
    return all(re.fullmatch(_DNS_LABEL, label) for label in text.split(".")) and len(text) <= 190


def canonical_domain(text: str) -> str:
    """A domain, ".subdomains" or [address literal] in lower case, with A-labels and without a dot at the end.

    Raises:
        ValueError: it is none of these.
    """
    if text.startswith("[") and text.endswith("]"):
        if is_ip(text[1:-1]) or (text[1:6].lower() == "ipv6:" and is_ip(text[6:-1])):
            return text.lower()
        raise ValueError(f"{text!r} is not an address literal")
    dot = "." if text.startswith(".") else ""
    name = text[len(dot) :].removesuffix(".")
    if not name.isascii():
        import idna

        try:
            name = idna.encode(name, uts46=True).decode()
        except idna.IDNAError as error:
            raise ValueError(f"{text!r} is not a domain: {error}") from None
    if not _DNS_NAME.fullmatch(name):
        raise ValueError(f'{text!r} is not a domain or ".subdomains"')
    return dot + name.lower()
