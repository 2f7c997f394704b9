"""`python -m postroika.bench.peers [NAME…]`: install the servers that are missing, all or those named.

The exit code is 1 when one of them cannot run here afterwards.
"""

from __future__ import annotations

import sys

from postroika.bench.peers import peers
from postroika.errors import PostroikaError


def main(wanted: list[str]) -> int:
    """Install, and tell why something cannot be had."""
    failures = 0
    for name, peer in peers().items():
        if wanted and name not in wanted:
            continue
        try:
            if peer.missing() is not None:
                peer.install()
            missing = peer.missing()
        except PostroikaError as error:
            missing = str(error)
        if missing is not None:
            failures += 1
            sys.stderr.write(f"postroika: {missing}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
