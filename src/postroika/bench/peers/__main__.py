"""`python -m postroika.bench.peers [--beside] [NAME…]`: get the servers that are missing, all or those named.

With --beside, Postfix is unpacked even where the system has one. The exit code is 1 when one of them cannot run here
afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from postroika.bench.peers import NAMES, Peer, peer
from postroika.bench.peers.postfix import Postfix
from postroika.errors import PostroikaError

_BESIDE = "--beside"


def main(arguments: list[str]) -> int:
    """Get them, and tell why one cannot be had."""
    beside = _BESIDE in arguments
    failures = 0
    for wanted in _peers([name for name in arguments if name != _BESIDE] or NAMES, beside=beside):
        try:
            if wanted.missing() is not None:
                wanted.install()
            missing = wanted.missing()
        except PostroikaError as error:
            missing = str(error)
        if missing is not None:
            failures += 1
            sys.stderr.write(f"postroika: {missing}\n")
    return 1 if failures else 0


def _peers(names: Iterable[str], *, beside: bool) -> list[Peer]:
    return [Postfix(unpacked=True) if beside and name == "postfix" else peer(name) for name in names]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
