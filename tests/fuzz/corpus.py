"""The inputs that are worth keeping: corpus/KERNEL.txt has one a line, written like a bytes literal of Python.

Few and short, so that a change can be read. `grow` sorts out what reaches nothing that another one does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

_CORPUS = Path(__file__).parent / "corpus"


def read(kernel: str) -> list[bytes]:
    """All inputs of a kernel."""
    return [ast.literal_eval(line) for line in (_CORPUS / f"{kernel}.txt").read_text().splitlines()]


def write(kernel: str, inputs: Iterable[bytes]) -> None:
    """Replace them."""
    lines = sorted({repr(octets) for octets in inputs}, key=lambda line: (len(line), line))
    (_CORPUS / f"{kernel}.txt").write_text("".join(f"{line}\n" for line in lines))


def unpack(kernel: str, folder: Path) -> None:
    """As libFuzzer wants them, a file each."""
    for number, octets in enumerate(read(kernel)):
        (folder / f"{number:04}").write_bytes(octets)
