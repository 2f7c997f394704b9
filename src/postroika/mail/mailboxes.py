"""The addresses in a From field, read with suspicion.

Promise: an address that any reader could take for the author's is among those that are returned; where readers could
differ, there is no answer at all. Source: RFC 5322 §3.4, §4.4; RFC 6854.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MOST_FIELD_BYTES: Final = 16 * 1024  # of a From to be read: it takes time on a loop, and nobody has so many authors
_SPACES = re.compile(r" ?([.@]) ?")


class Author(NamedTuple):
    """One mailbox.

    Args:
        address: local-part@domain.
        spaced: it stands outside of angle brackets, with blanks or comments beside its @ or dots: so it may be words
            that are no address to whoever has written them ("Sale @ Shop, Inc. <news@shop.example>").
    """

    address: str
    spaced: bool


def mailboxes(value: str) -> list[str] | None:
    """All addresses in the body of a From field, unfolded.

    Besides the addresses in angle brackets, words of a display name that look like addresses and stand outside of
    quotes are among them: some readers show, or take, those.

    Returns:
        None if it is not what RFC 5322 allows, so that readers need not agree on what it says.
    """
    reader = _Reader(value)
    return reader.found if reader.read() else None


def authors(value: str) -> list[Author] | None:
    """The mailboxes in the body of a From field, unfolded; None as for `mailboxes`."""
    reader = _Reader(value)
    return reader.authors if reader.read() else None


class _Reader:
    """Of one value.

    Attributes:
        authors: the mailboxes.
        found: their addresses, and other words that look like some.
    """

    def __init__(self, value: str) -> None:
        self._value = value
        self._at = 0
        self.authors: list[Author] = []
        self.found: list[str] = []
        self._begin()

    def _begin(self) -> None:
        """A new mailbox."""
        self._words: list[str] = []  # outside of angle brackets; "" between two that are apart
        self._angle: str | None = None

    def read(self) -> bool:
        """Whether all of it is as it may be."""
        try:
            self._read()
        except ValueError:
            return False
        return True

    def _read(self) -> None:
        value = self._value
        in_group = False
        while self._at < len(value):
            char = value[self._at]
            if char in " \t":
                self._at += 1
                self._words.append("")
            elif char == "(":
                self._skip_comment()
                self._words.append("")
            elif char == "<":
                if self._angle is not None:
                    raise ValueError("two addresses in one mailbox")
                self._at += 1
                self._angle = self._angle_address()
            elif char == ",":
                self._at += 1
                self._end()
            elif char == ":":
                if in_group or self._angle is not None:
                    raise ValueError("a colon that begins no group")
                in_group = True
                self._at += 1
                self._begin()
            elif char == ";":
                if not in_group:
                    raise ValueError("a semicolon that ends no group")
                in_group = False
                self._at += 1
                self._end()
            else:
                self._words.append(self._word())
                if self._angle is not None:
                    raise ValueError("words behind an address")
        if in_group:
            raise ValueError("a group that does not end")
        self._end()

    def _end(self) -> None:
        """Of a mailbox."""
        if self._angle is not None:
            self._take(self._angle, spaced=False)
            self.found += [word for word in self._words if "@" in word and not word.startswith('"')]
        elif any(self._words):
            text = _joined(self._words)
            closed = _SPACES.sub(r"\1", text)
            self._take(closed, spaced=closed != text)
        self._begin()

    def _take(self, text: str, *, spaced: bool) -> None:
        address = _address(text)
        self.authors.append(Author(address, spaced))
        self.found.append(address)

    def _angle_address(self) -> str:
        words: list[str] = []
        while (char := self._peek()) != ">":
            if char in " \t":
                self._at += 1
                words.append("")
            elif char == "(":
                self._skip_comment()
                words.append("")
            elif char in "<,:;":
                raise ValueError("a route, or several addresses, in angle brackets")
            else:
                words.append(self._word())
        self._at += 1
        return _SPACES.sub(r"\1", _joined(words))

    def _peek(self) -> str:
        if self._at == len(self._value):
            raise ValueError("not closed")
        return self._value[self._at]

    def _word(self) -> str:
        """A quoted string with its quotes, a literal with its brackets, or all up to the next special character."""
        start = self._at
        if self._value[start] in '"[':
            self._skip_quoted('"' if self._value[start] == '"' else "]")
        else:
            while self._at < len(self._value) and self._value[self._at] not in ' \t()<>,:;"[]\\':
                if not self._value[self._at].isprintable():
                    raise ValueError("a control character")
                self._at += 1
            if self._at == start:
                raise ValueError("a character that may not stand here")
        return self._value[start : self._at]

    def _skip_quoted(self, end: str) -> None:
        self._at += 1
        while (char := self._peek()) != end:
            self._at += 2 if char == "\\" else 1
            if self._at > len(self._value):
                raise ValueError("not closed")
        self._at += 1

    def _skip_comment(self) -> None:
        depth = 0
        while True:
            char = self._peek()
            self._at += 2 if char == "\\" else 1
            if self._at > len(self._value):
                raise ValueError("not closed")
            depth += (char == "(") - (char == ")")
            if not depth:
                return


def _joined(words: list[str]) -> str:
    """The words as one text, with one blank where some were apart."""
    pieces: list[str] = []
    for word in words:
        if word or (pieces and pieces[-1] != " "):
            pieces.append(word or " ")
    return "".join(pieces).strip(" ")


def _address(text: str) -> str:
    """`text` if it is local-part@domain; a quoted local part keeps its quotes.

    Raises:
        ValueError: it is not.
    """
    local, at, domain = text.rpartition("@")
    outside = re.sub(r'^"(?:[^"\\]|\\.)*"$', "q", local)
    if not at or not local or not domain or " " in outside + domain or "@" in outside or '"' in outside:
        raise ValueError("not an address")
    return text
