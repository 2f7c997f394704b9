"""The header of a message, looked at while its pieces come in."""

class HeaderScanner:
    ended: bool
    eight_bit: bool
    received: int
    size: int

    def __init__(self) -> None: ...
    def feed(self, piece: bytes) -> bool: ...
