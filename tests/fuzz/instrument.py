"""Makes libFuzzer see what goes on in a kernel.

Promise: the kernels that Postroika runs on stay as they are; the instrumented ones have a place of their own in build/.

How: the C that Cython made of a kernel is compiled once more with calls of __sanitizer_cov_*, as GCC and Clang can both
put them in, and coverage.c answers these. It has to be loaded for all to see, and before the kernel.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import atheris  # loads libFuzzer

import postroika.kernels

# Of parsers that are written in Python: atheris instruments these itself.
MODULES = {
    "proxy_header": "postroika.inbound.proxy_header",
    "sts_policy": "postroika.sts.policy",
    "sts_record": "postroika.sts.record",
    "xclient": "postroika.smtp.xclient",
}
_ROOT = Path(__file__).parents[2]
PLACE = _ROOT / "build" / "fuzz"
_GENERATED = _ROOT / "build" / "cython" / "cext"
_CC = shlex.split(os.environ.get("CC", "gcc"))
_FLAGS = ["-O1", "-g1", "-fPIC", "-shared", "-w"]
_HOOKS = [f"trace_{kind}cmp{octets}" for kind in ("", "const_") for octets in (1, 2, 4, 8)] + ["trace_switch"]


def load_instrumented(kernel: str) -> None:
    """Load the instrumented twin of that kernel in its place, before anybody imports it."""
    shim = ctypes.CDLL(str(_compiled("coverage", Path(__file__).with_name("coverage.c"), [])), ctypes.RTLD_GLOBAL)
    fuzzer = ctypes.CDLL(str(next(Path(atheris.__file__).parent.glob("core_with_libfuzzer*.so"))))
    hooks = [_address(fuzzer, name) for name in _HOOKS]
    shim.forward_to((ctypes.c_void_p * len(hooks))(*hooks))
    sanitizer = ["-fsanitize-coverage=trace-pc,trace-cmp", f"-I{_ROOT / 'cext'}"]
    library = _compiled(kernel, _GENERATED / f"{kernel}.c", sanitizer)
    postroika.kernels.__path__.insert(0, str(PLACE))
    module = importlib.import_module(f"postroika.kernels.{kernel}")
    assert module.__file__ == str(library)
    begin, end = _code_of(library)
    take = [ctypes.c_void_p(_address(fuzzer, name)) for name in ("8bit_counters_init", "pcs_init")]
    if shim.count_in(*take, ctypes.c_void_p(begin), ctypes.c_void_p(end)) != 0:
        raise MemoryError


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, f"__sanitizer_cov_{name}"), ctypes.c_void_p).value or 0


def _compiled(name: str, source: Path, flags: list[str]) -> Path:
    library = PLACE / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    newest = max(path.stat().st_mtime for path in (source, *(_ROOT / "cext").iterdir()))
    if not library.exists() or library.stat().st_mtime < newest:
        PLACE.mkdir(parents=True, exist_ok=True)
        # Beside the C that Cython made lie copies of headers, which may be old; so it is compiled elsewhere.
        alone = Path(shutil.copy(source, PLACE))
        new = library.with_suffix(f".{os.getpid()}")
        include = f"-I{sysconfig.get_path('include')}"
        subprocess.run([*_CC, *_FLAGS, *flags, include, str(alone), "-o", str(new)], check=True)
        new.replace(library)
    return library


def _code_of(library: Path) -> tuple[int, int]:
    """Where the code of a loaded library is in memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, *_ = line.split()
        if line.endswith(str(library)) and "x" in access:
            begin, _, end = span.partition("-")
            return int(begin, 16), int(end, 16)
    raise LookupError(library)
