"""Two ends of TLS in memory."""

from __future__ import annotations

from postroika.tls.layer import TlsLayer


def pump(client: TlsLayer, server: TlsLayer, *, at_once: int = 1 << 20) -> tuple[bytes, bytes]:
    """Carry ciphertext to and fro until both are at rest; what each of them has read."""
    got = {client: b"", server: b""}
    for one in (client, server):
        while piece := one.read():
            got[one] += piece
    moved = True
    while moved:
        moved = False
        for one, other in ((client, server), (server, client)):
            ciphertext = one.take_output()
            for start in range(0, len(ciphertext), at_once):
                moved = True
                other.feed(ciphertext[start : start + at_once])
                while piece := other.read():
                    got[other] += piece
    return got[client], got[server]
