"""Dot-stuffing of a message body on its way out, and the search for bare newlines in it."""

class Stuffer:
    """Stuffs one body, fed in pieces that are cut anywhere.

    Source: RFC 5321 §4.5.2, §2.3.8.
    """

    def __init__(self) -> None: ...
    @property
    def bare_newline(self) -> bool:
        """A CR without LF or an LF without CR has been seen: the body must not be sent through DATA.

        A CR at the end of what was fed counts only once the next piece, or `finish`, shows what follows it.
        """

    def feed(self, piece: bytes) -> bytes:
        """The piece with every dot at the start of a line doubled; `piece` itself if there is none."""

    def scan(self, piece: bytes) -> None:
        """Look for bare newlines only (for BDAT, which needs no stuffing)."""

    def finish(self) -> bytes:
        """What ends the body: dot CR LF, with a CR LF before it if the last line has none."""

def variants() -> tuple[str, ...]:
    """Names of the ways to look at octets that run on this machine, the best first. All find the same."""

def variant() -> str:
    """The one in use: the best, unless another was chosen."""

def use_variant(name: str) -> None:
    """Use another one from now on, to compare them.

    Raises:
        ValueError: none of that name runs on this machine.
    """
