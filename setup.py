"""Builds the Cython kernels: sources in cext/, modules in postroika.kernels, generated C in build/."""

import os
import shlex
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

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

# The Makefile compiles the kernels in a step of its own, once; installing the package would do it again each time.
setup(
    ext_modules=[]
    if os.environ.get("POSTROIKA_WITHOUT_KERNELS")
    else cythonize(
        extensions,
        build_dir="build/cython",
        quiet=True,
        include_path=["cext"],
        compiler_directives={"language_level": 3, "boundscheck": True, "wraparound": False, "embedsignature": True},
    )
)
