"""Which SASL mechanisms we have, and a new exchange of one of them."""

from __future__ import annotations

from collections.abc import Mapping

from postroika.smtp.sasl import Exchange, Login, Plain
from postroika.smtp.scram import Scram

SCRAM = "SCRAM-SHA-256"
SCRAM_PLUS = "SCRAM-SHA-256-PLUS"
# The strongest first: there are clients that take the first one they know.
_WITHOUT_BINDING = (SCRAM, "PLAIN", "LOGIN")
_WITH_BINDING = (SCRAM_PLUS, *_WITHOUT_BINDING)


def mechanisms(bindings: Mapping[str, bytes]) -> tuple[str, ...]:
    """Those to offer on a connection with these channel bindings, in the order in which EHLO names them."""
    return _WITH_BINDING if bindings else _WITHOUT_BINDING


def open_exchange(mechanism: str, bindings: Mapping[str, bytes]) -> Exchange:
    """A new exchange of one of `mechanisms`."""
    if mechanism == "PLAIN":
        return Plain()
    if mechanism == "LOGIN":
        return Login()
    return Scram(bindings, plus=mechanism == SCRAM_PLUS)
