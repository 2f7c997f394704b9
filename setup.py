"""Builds what is compiled: the Cython kernels (sources in cext/, modules in postroika.kernels), and with mypyc the
modules on the path of each message (tool.postroika.compiled in pyproject.toml), whose compiled twins stand beside their
sources. Generated C goes to build/.

Environment:
    POSTROIKA_COMPILE: of these two, `kernels` and `modules`, what is to be compiled (default: both). Modules that are
        not are interpreted, and do the same.
    CFLAGS: added for the kernels.
"""

import os
import shlex
import tomllib
from pathlib import Path

from setuptools import Extension, setup


def kernels() -> list[Extension]:
    """The Cython kernels."""
    from Cython.Build import cythonize

    # Cython sees for itself to what the sources import; headers that headers include are beyond it.
    headers = sorted(str(header) for header in Path("cext").glob("*.h"))
    extensions = [
        Extension(
            f"postroika.kernels.{source.stem}",
            [str(source)],
            include_dirs=["cext"],
            depends=headers,
            extra_compile_args=["-O3", *shlex.split(os.environ.get("CFLAGS", ""))],
        )
        for source in sorted(Path("cext").glob("*.pyx"))
    ]
    return cythonize(
        extensions,
        build_dir="build/cython",
        quiet=True,
        include_path=["cext"],
        compiler_directives={"language_level": 3, "boundscheck": True, "wraparound": False, "embedsignature": True},
    )


def _source(name: str) -> str:
    return f"src/{name.replace('.', '/')}.py"


def modules() -> list[Extension]:
    """The compiled modules: calls among them are calls in C. A group is one file of C: groups are compiled at once."""
    from mypyc.build import mypycify

    with Path("pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["postroika"]["compiled"]
    groups = [([_source(name) for name in names], f"postroika_{group}") for group, names in listed.items()]
    return mypycify(
        ["--config-file=pyproject.toml", *(path for paths, _ in groups for path in paths)],
        opt_level="2",
        debug_level="0",
        target_dir="build/mypyc",
        separate=groups,
    )


parts = os.environ.get("POSTROIKA_COMPILE", "kernels modules").split()
setup(ext_modules=(kernels() if "kernels" in parts else []) + (modules() if "modules" in parts else []))
