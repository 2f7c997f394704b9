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
