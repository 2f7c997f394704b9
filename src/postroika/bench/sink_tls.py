"""The certificate of the sink: a given one, or one that is made up and signed by itself."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

from postroika.bench.sink_settings import SinkSettings
from postroika.errors import PostroikaError

_VALID_DAYS = 30
_OPENSSL_S = 30.0


def server_context(settings: SinkSettings) -> ssl.SSLContext:
    """What the sink shakes hands with.

    Raises:
        PostroikaError: the files cannot be used, or there are none and none can be made.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if settings.certificate:
        _load(context, settings.certificate, settings.key or settings.certificate)
    else:
        with tempfile.TemporaryDirectory(prefix="postroika-sink-") as directory:
            certificate, key = Path(directory, "certificate.pem"), Path(directory, "key.pem")
            _make(settings.hostname, certificate, key)
            _load(context, str(certificate), str(key))
    return context


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise PostroikaError(f"cannot use the certificate {certificate} with the key {key}: {error}") from None


def _make(hostname: str, certificate: Path, key: Path) -> None:
    """A self-signed certificate on P-256, whose handshakes are the cheapest that everyone knows."""
    program = shutil.which("openssl")
    if program is None:
        raise PostroikaError("TLS needs a certificate: install openssl, which makes one, or give one with its key")
    command = [
        program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch",
        "-subj", f"/CN={hostname}", "-addext", f"subjectAltName=DNS:{hostname},DNS:localhost,IP:127.0.0.1",
        "-days", str(_VALID_DAYS), "-keyout", str(key), "-out", str(certificate),
    ]  # fmt: skip
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=_OPENSSL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PostroikaError(f"openssl could not make a certificate: {error}") from None
    if made.returncode != 0:
        raise PostroikaError(f"openssl could not make a certificate: {made.stderr.strip()[-300:]}")
