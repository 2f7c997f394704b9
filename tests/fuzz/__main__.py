"""`python -m tests.fuzz KERNEL [OPTION of libFuzzer…] [FOLDER]`: finds where kernel and twin differ.

Parsers that are no kernels have their names in `instrument.MODULES`.

It begins with the corpus and keeps what reaches something new in FOLDER. What fails is written beside FOLDER, and its
traceback is printed; `-runs=0` with the file in FOLDER shows it again.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

import atheris

from tests.fuzz import corpus
from tests.fuzz.instrument import MODULES, PLACE, load_instrumented

_LONGEST = 512


def main() -> None:
    """Never returns."""
    kernel, *rest = sys.argv[1:]
    options = [word for word in rest if word.startswith("-")]
    folders = [Path(word) for word in rest if not word.startswith("-")] or [PLACE / kernel]
    folders[0].mkdir(parents=True, exist_ok=True)
    if kernel not in MODULES:
        load_instrumented(kernel)
    with atheris.instrument_imports(include=["tests.reference", *MODULES.values()]):
        from tests.fuzz.targets import TARGETS
    ours = [f"-max_len={_LONGEST}", f"-artifact_prefix={folders[0]}-"]
    with tempfile.TemporaryDirectory() as place:
        seeds = Path(place) / "seeds"
        seeds.mkdir()
        corpus.unpack(kernel, seeds)
        # To merge, libFuzzer runs itself again, as a file.
        again = Path(place) / "again"
        again.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tests.fuzz {kernel} "$@"\n')
        again.chmod(0o755)
        atheris.Setup([str(again), *ours, *options, *map(str, folders), str(seeds)], TARGETS[kernel])
        atheris.Fuzz()


main()
