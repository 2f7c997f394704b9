"""The content of a message as it comes off the wire, for DATA (dotted) and BDAT (counted)."""

class DataScanner:
    dotted: bool
    normalise: bool
    ended: bool
    bare_cr: bool
    bare_lf: bool
    nul: bool
    eight_bit: bool
    size: int

    def __init__(self, *, dotted: bool, normalise: bool = False) -> None: ...
    @property
    def longest_line(self) -> int: ...
    def feed(self, buffer: bytes, start: int, stop: int) -> tuple[bytes, int]: ...
    def finish(self) -> bytes: ...

def variants() -> tuple[str, ...]:
    """Names of the ways to look at octets that run on this machine, the best first. All find the same."""

def variant() -> str:
    """The one in use: the best, unless another was chosen."""

def use_variant(name: str) -> None:
    """Use another one from now on, to compare them.

    Raises:
        ValueError: none of that name runs on this machine.
    """
