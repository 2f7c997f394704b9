"""Relaxed canonicalisation, as DKIM wants it."""

from collections.abc import Callable

class RelaxedBody:
    """Canonicalises one body, and gives it to `update` in blocks (RFC 6376 §3.4.4).

    Args:
        update: takes bytes; as a rule that of a hash.
    """

    def __init__(self, update: Callable[[bytes], object]) -> None: ...
    def feed(self, piece: bytes) -> None:
        """Take in the next piece."""

    def finish(self) -> None:
        """The end of the body: what was held back is text or nothing, and the last line has its end."""

class Fields:
    """The fields of a header. What is no field is passed over.

    Args:
        header: up to the empty line, or with it.
    """

    count: int

    def __init__(self, header: bytes) -> None: ...
    def values(self, name: bytes, most: int) -> list[bytes]:
        """What stands behind the colons of the fields of this name, line ends included, from the top; no more than `most`.
        """

    def signed(self, names: tuple[bytes, ...], oversigned: int) -> tuple[bytes, bytes]:
        """What is signed of this header: the value of h=, and the fields in relaxed form in its order (RFC 6376
        §3.4.2, §5.4.2). Of several of one name the lowest comes first. No more than 16 are taken of a name that is
        not oversigned.

        Args:
            names: of the fields, none of them twice whatever its case.
            oversigned: so many of them, from the first on, are named once more than they are there: then none can be
                added.

        Raises:
            ValueError: there are more than 64 fields of one of those.
        """

def relaxed_field(field: bytes) -> bytes:
    """One field in relaxed form.

    Raises:
        ValueError: it is none, or more than one.
    """
