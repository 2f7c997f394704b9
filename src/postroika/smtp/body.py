"""The content of one message on its way in: scanned, measured, judged.

Promise: `refusal` is set at the first octet that makes the message unacceptable, and never for a reason that the
sender could not understand. Holds no content.
"""

from __future__ import annotations

from postroika.kernels.datastream import DataScanner
from postroika.kernels.headers import HeaderScanner
from postroika.mail.reply import Reply, reply
from postroika.smtp.server_events import BodyEnd

# RFC 5321 §2.3.8 forbids CR and LF apart from each other; whoever passes them on lets two servers see two messages.
BARE_LF = reply(550, "5.6.0", "message has a bare LF: each line must end with CR LF (RFC 5321 section 2.3.8)")
BARE_CR = reply(550, "5.6.0", "message has a bare CR: each line must end with CR LF (RFC 5321 section 2.3.8)")
HAS_NUL = reply(550, "5.6.0", "message has a NUL octet: encode it, or use BINARYMIME (RFC 5321 section 4.5.2)")
TOO_LARGE = reply(552, "5.3.4", "message is too large")
HEADER_TOO_LARGE = reply(552, "5.3.4", "message header is too large")
LOOP = reply(554, "5.4.6", "too many hops: the mail goes in circles")


class BodyReader:
    """Takes wire octets, gives content.

    Args:
        dotted: DATA; otherwise BDAT.
        normalise: make each bare CR or bare LF a CR LF, in place of refusing them.
        binary: any octet is allowed as it is.
    """

    __slots__ = ("_binary", "_header", "_max_bytes", "_max_header", "_max_received", "_scanner", "refusal")

    def __init__(
        self, *, dotted: bool, normalise: bool, binary: bool, max_bytes: int, max_header_bytes: int, max_received: int
    ) -> None:
        self._scanner = DataScanner(dotted=dotted, normalise=normalise and not binary)
        self._header = HeaderScanner()
        self._binary = binary
        self._max_bytes = max_bytes
        self._max_header = max_header_bytes
        self._max_received = max_received
        self.refusal: Reply | None = None

    @property
    def ended(self) -> bool:
        """The final dot has been seen."""
        return self._scanner.ended

    @property
    def size_bytes(self) -> int:
        """Octets of content so far."""
        return self._scanner.size

    def feed(self, buffer: bytes, start: int, stop: int) -> tuple[bytes, int]:
        """As `DataScanner.feed`; sets `refusal`."""
        piece, behind = self._scanner.feed(buffer, start, stop)
        if self.refusal is None:
            self._judge(piece)
        return piece, behind

    def finish(self) -> bytes:
        """The end of the last chunk: what was held back; sets `refusal`."""
        piece = self._scanner.finish()
        if self.refusal is None:
            self._judge(piece)
        return piece

    def _judge(self, piece: bytes) -> None:
        scanner, header = self._scanner, self._header
        if not self._binary:
            if scanner.nul:
                self.refusal = HAS_NUL
                return
            if not scanner.normalise:
                if scanner.bare_lf:
                    self.refusal = BARE_LF
                    return
                if scanner.bare_cr:
                    self.refusal = BARE_CR
                    return
        if scanner.size > self._max_bytes:
            self.refusal = TOO_LARGE
        elif not header.ended:
            header.feed(piece)
            if header.received > self._max_received:
                self.refusal = LOOP
            elif header.size > self._max_header:
                self.refusal = HEADER_TOO_LARGE

    def facts(self) -> BodyEnd:
        """What is known of the whole message."""
        scanner, header = self._scanner, self._header
        return BodyEnd(
            scanner.size, scanner.eight_bit, header.eight_bit, scanner.longest_line, header.received, scanner.nul
        )
