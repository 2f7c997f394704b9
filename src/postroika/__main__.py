"""`postroika` and `python -m postroika`: hands over to the command line."""

from __future__ import annotations

import sys

from postroika import cli


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(cli.run(sys.argv[1:]))


if __name__ == "__main__":
    main()
