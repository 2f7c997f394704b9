"""Other interpreters that Postroika is measured with, beside the one that runs the harness.

Promise: an interpreter that cannot run Postroika is told in one line, before anything is measured.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

from postroika.errors import PostroikaError

_FACTS = Path(__file__).with_name("interpreter_facts.py")
_ANSWER_WITHIN_S = 60.0


class Interpreter(msgspec.Struct, frozen=True):
    """What an interpreter says of itself: see `interpreter_facts`.

    Args:
        name: implementation and version.
        postroika: the version that it runs.
        source: the directory of that.
    """

    name: str
    build: str
    loop_ns: float
    postroika: str
    source: str


def look_at(python: str) -> Interpreter:
    """Ask an interpreter.

    Args:
        python: its path.

    Raises:
        PostroikaError: there is none, or it has no Postroika with all its kernels; one line.
    """
    try:
        # -P: the directory of the program is none to import from.
        done = subprocess.run(
            [python, "-P", _FACTS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_WITHIN_S,
            check=False,
        )
    except OSError as error:
        raise PostroikaError(f"there is no interpreter {python}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise PostroikaError(f"{python} does not answer within {_ANSWER_WITHIN_S:g} s") from None
    try:
        return msgspec.json.decode(done.stdout, type=Interpreter)
    except msgspec.DecodeError:
        why = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
        raise PostroikaError(
            f"{python} cannot run Postroika: {why} (`make build PYTHON=…` in a clone of the source makes one that can)"
        ) from None


def look_at_all(wanted: Iterable[str]) -> dict[str, tuple[str, Interpreter]]:
    """Ask those of the command line.

    Args:
        wanted: "LABEL=PATH", or "PATH" of one that is called by its name and version.

    Returns:
        By label: the path, and what it says of itself.

    Raises:
        PostroikaError: one of them cannot be used, or two have one label.
    """
    found: dict[str, tuple[str, Interpreter]] = {}
    for word in wanted:
        label, equals, python = word.partition("=")
        if not equals:
            label, python = "", word
        interpreter = look_at(python)
        label = label.strip() or interpreter.name
        if label in found:
            raise PostroikaError(f"two interpreters are called {label!r}: name one with LABEL=PATH")
        found[label] = python, interpreter
    return found
