"""Self-signed certificates for servers that offer STARTTLS."""

from __future__ import annotations

from pathlib import Path

from postroika.bench.peers.program import run

_VALID_DAYS = "30"


def make_certificate(directory: Path, hostname: str) -> tuple[Path, Path]:
    """A certificate and its key on P-256, whose handshakes are the cheapest that everyone knows.

    Raises:
        PostroikaError: there is no openssl.
    """
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", f"/CN={hostname}", "-addext", f"subjectAltName=DNS:{hostname},DNS:localhost,IP:127.0.0.1"]
    files: list[str | Path] = ["-keyout", key, "-out", certificate]
    run(["openssl", "req", "-x509", "-batch", *curve, *names, "-days", _VALID_DAYS, *files])
    key.chmod(0o600)
    return certificate, key
