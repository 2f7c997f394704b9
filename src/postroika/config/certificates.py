"""Certificates and keys from files, and what is wrong with those that cannot be used, in words for who named them.

OpenSSL says "PEM lib" to most of it; so files are looked at before it gets them.
"""

from __future__ import annotations

import re
import ssl
from datetime import datetime
from pathlib import Path
from typing import Literal

from postroika.config.named_files import told
from postroika.errors import ConfigError

_CERTIFICATE = re.compile(rb"^-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----", re.MULTILINE)
_KEY = re.compile(rb"^-----BEGIN ([A-Z]+ )*PRIVATE KEY-----", re.MULTILINE)


class UnusableFileError(ConfigError):
    """A file cannot be used. `key` is the config key that names it, in a table with a certificate and its key."""

    def __init__(self, key: Literal["certificate", "key"], text: str) -> None:
        super().__init__(text)
        self.key = key


class _EncryptedError(Exception):
    """A passphrase was asked for."""


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Give `context` a certificate with its chain and its private key.

    Args:
        certificate, key: names of PEM files.

    Raises:
        UnusableFileError: nothing was given.
    """
    if not _CERTIFICATE.search(_read("certificate", certificate)):
        raise UnusableFileError("certificate", f"{told(certificate)} holds no certificate in PEM form")
    if not _KEY.search(_read("key", key)):
        raise UnusableFileError("key", f"{told(key)} holds no private key in PEM form")
    try:
        context.load_cert_chain(certificate, key, _refuse_passphrase)
    except _EncryptedError:
        raise UnusableFileError("key", f"{told(key)} is encrypted: a key without a passphrase is needed") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UnusableFileError("key", f"{told(key)} is not the key of {told(certificate)}") from None
        raise UnusableFileError(_broken(certificate), _reason(certificate, key, error)) from None
    except OSError as error:
        raise UnusableFileError(
            "certificate", f"cannot read {told(certificate)} or {told(key)}: {error.strerror}"
        ) from None


def load_authorities(context: ssl.SSLContext, file: str) -> None:
    """Let `context` trust certificates that come from those in a PEM file.

    Raises:
        UnusableFileError: it cannot.
    """
    if not _CERTIFICATE.search(_read("certificate", file)):
        raise UnusableFileError("certificate", f"{told(file)} holds no certificate in PEM form")
    try:
        context.load_verify_locations(file)
    except OSError as error:  # of which ssl.SSLError is one
        raise UnusableFileError("certificate", f"{told(file)} cannot be used: {_words(error)}") from None


def not_valid(certificate: str, now: datetime) -> str:
    """That the certificate in a PEM file has expired, or is not valid yet; "" if all is well, or it cannot be read."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(Path(certificate).read_bytes())[0]
    except (OSError, ValueError, x509.InvalidVersion):
        return ""
    before, after = found.not_valid_before_utc, found.not_valid_after_utc
    if now > after:
        return f"{told(certificate)} has expired on {after:%Y-%m-%d %H:%M} UTC: who looks at it will refuse it"
    if now < before:
        return f"{told(certificate)} is not valid before {before:%Y-%m-%d %H:%M} UTC: who looks at it will refuse it"
    return ""


def _read(key: Literal["certificate", "key"], file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UnusableFileError(key, f"cannot read {told(file)}: {error.strerror}") from None


def _refuse_passphrase() -> str:
    raise _EncryptedError


def _broken(certificate: str) -> Literal["certificate", "key"]:
    """Which of two files is the broken one, if OpenSSL does not say."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except OSError:
        return "certificate"
    return "key"


def _reason(certificate: str, key: str, error: ssl.SSLError) -> str:
    return f"{told(certificate if _broken(certificate) == 'certificate' else key)} cannot be used: {_words(error)}"


def _words(error: OSError) -> str:
    """As "ee key too small"."""
    if isinstance(error, ssl.SSLError):
        # Of PEM that it cannot read, OpenSSL says "PEM lib" to some versions of Python, and nothing to others.
        if error.reason in {None, "PEM_LIB"}:
            return "it is damaged, or not whole"
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)
