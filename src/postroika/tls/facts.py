"""What is known of a TLS connection once its handshake is done."""

from __future__ import annotations

from typing import NamedTuple


class TlsFacts(NamedTuple):
    """What both sides have agreed on.

    Args:
        version: as "TLSv1.3".
        cipher: as OpenSSL calls it, "TLS_AES_256_GCM_SHA384".
        server_name: what the client asked for (SNI), "" if it did not. As it came: any characters of ASCII.
        peer_name: the common name in the peer's certificate, else the first name of a host, or else the first e-mail
            address, IP address or URI in it; "" without one. As it stands there: of any length, any characters.
        verified: the peer's certificate was checked, and is good.
        dane: it was checked against the TLSA records of the peer, not by whom we trust.
    """

    version: str
    cipher: str
    server_name: str = ""
    peer_name: str = ""
    verified: bool = False
    dane: bool = False

    def text(self) -> str:
        """Version and cipher in one word each, for events."""
        return f"{self.version} {self.cipher}"
