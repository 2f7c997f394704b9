"""`python -m tests.fuzz.grow [--seconds N] [KERNEL…]`: a longer run for each kernel; the corpus gets what it has found.

What it finds is kept in build/fuzz from run to run, and each begins where the last one ended.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Ends at the first difference that is found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60, help="for each kernel")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=", ".join(TARGETS))
    wanted = parser.parse_args()
    for kernel in wanted.kernels or TARGETS:
        found = _ROOT / "build" / "fuzz" / kernel
        print(f"{kernel}: {wanted.seconds} s", flush=True)
        _fuzz(kernel, f"-max_total_time={wanted.seconds}", str(found))
        with tempfile.TemporaryDirectory() as merged:
            # By the blocks that are reached and not by how often: an order of magnitude fewer.
            _fuzz(kernel, "-merge=1", "-use_counters=0", merged, str(found))
            inputs = [path.read_bytes() for path in Path(merged).iterdir()]
        before = len(corpus.read(kernel))
        corpus.write(kernel, inputs)
        print(f"{kernel}: {len(inputs)} inputs, were {before}", flush=True)


def _fuzz(kernel: str, *options: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", kernel, *options]
    run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"{run.stdout}{run.stderr}\n{kernel}: see above; the input is in build/fuzz")


if __name__ == "__main__":
    main()
