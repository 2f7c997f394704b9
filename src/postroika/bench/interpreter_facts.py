"""What an interpreter is, told by itself: a program of its own, run by the interpreter that it is about.

    python -P interpreter_facts.py

Promise: it needs the standard library alone until it looks for Postroika, and prints one JSON object: see `facts`. The
exit code is not 0 where Postroika or one of its kernels cannot be imported.
"""

from __future__ import annotations

import importlib
import json
import platform
import statistics
import sysconfig
import time
from pathlib import Path
from typing import Any

_LOOPS = 9
_LOOP_TURNS = 20_000


def main() -> None:
    """Print them."""
    print(json.dumps({**facts(), **_postroika()}))


def facts() -> dict[str, Any]:
    """The interpreter: its name and version, how it was built, and how fast it is."""
    return {
        "name": f"{platform.python_implementation()} {platform.python_version()}",
        "build": build(),
        "loop_ns": round(loop_ns(), 1),
    }


def build() -> str:
    """What it was compiled with and which of the optimisations that make a difference its configuration names.

    Packages of Debian are made with some that theirs does not name.
    """
    flags = " ".join(
        str(sysconfig.get_config_var(name) or "") for name in ("CONFIG_ARGS", "PY_CORE_CFLAGS", "PY_CORE_LDFLAGS")
    )
    pgo = "--enable-optimizations" in flags or "-fprofile-use" in flags
    lto = "--with-lto" in flags or "-flto" in flags
    named = [name for name, there in (("PGO", pgo), ("LTO", lto)) if there]
    return ", ".join(
        [
            platform.python_compiler(),
            "/".join(named) if named else "neither PGO nor LTO named",
            "libpython shared" if _is_shared() else "static",
        ]
    )


def loop_ns() -> float:
    """CPU time of one turn of a loop that squares and adds.

    It tells builds of the same Python apart (with and without profile-guided optimisation, static and shared), which no
    version does, and quiet machines from busy ones.
    """
    took_s = []
    for _ in range(_LOOPS):
        total = 0
        begin = time.thread_time()
        for number in range(_LOOP_TURNS):
            total += number * number
        took_s.append(time.thread_time() - begin)
    return statistics.median(took_s) / _LOOP_TURNS * 1e9


def _is_shared() -> bool:
    """Whether the interpreter is a library of its own: calls within it are dearer then."""
    return any("/libpython3" in line for line in Path("/proc/self/maps").read_text().splitlines())


def _postroika() -> dict[str, str]:
    """Which Postroika it would run.

    Raises:
        ImportError: none, or a kernel is missing.
    """
    package = importlib.import_module("postroika")
    kernels = Path(str(importlib.import_module("postroika.kernels").__file__)).parent
    for stub in sorted(kernels.glob("*.pyi")):
        importlib.import_module(f"postroika.kernels.{stub.stem}")
    importlib.import_module("postroika.supervisor")
    return {"postroika": package.__version__, "source": str(Path(str(package.__file__)).parent)}


if __name__ == "__main__":
    main()
