"""A Python with Postroika in it that a user without rights can run, wherever ours is.

Ours may lie in a directory that is closed to others, as the home of root is. Then there is a copy for as long as the
tests run: of the interpreter, its library, and what is installed beside us.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import mkdtemp

import pytest

import postroika

_NEVER_IMPORTED = shutil.ignore_patterns("site-packages", "dist-packages", "test", "idlelib", "config-*", "ensurepip")
_POINTING_ELSEWHERE = shutil.ignore_patterns("*.pth", "__editable__*", "postroika", "pip", "mypy", "mypyc", "Cython")


@functools.cache
def python_for(user: str) -> str:
    """The interpreter to start a server with that becomes `user`.

    Raises:
        pytest.fail.Exception: the user can run no copy either.
    """
    entry = pwd.getpwnam(user)
    if not _cannot_run(sys.executable, entry):
        return sys.executable
    python = _copied()
    if problem := _cannot_run(python, entry):
        pytest.fail(f"{user} cannot run {python}: {problem}", pytrace=False)
    return python


def _cannot_run(python: str, entry: pwd.struct_passwd) -> str:
    """What stands against it, "" if nothing does."""
    look = [python, "-c", "import postroika.worker"]
    try:
        tried = subprocess.run(
            look, capture_output=True, text=True, cwd="/", check=False, user=entry.pw_uid, group=entry.pw_gid
        )
    except PermissionError as error:
        return str(error)
    return tried.stderr if tried.returncode else ""


@functools.cache
def _copied() -> str:
    home = Path(mkdtemp(prefix="postroika-python-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    home.chmod(0o755)
    ours = Path(sysconfig.get_path("stdlib"))
    library = home / "lib" / ours.name
    # Python looks for its library beside the directory that it was started from.
    python = home / "bin" / ours.name
    python.parent.mkdir()
    shutil.copy2(Path(sys.executable).resolve(), python)
    shutil.copytree(ours, library, symlinks=True, ignore=_NEVER_IMPORTED)
    for shared in ours.parent.glob("libpython*.so*"):
        shutil.copy2(shared, home / "lib", follow_symlinks=False)
    # Beside the library's own modules, since Debian's Python looks for further ones elsewhere than others do.
    for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        shutil.copytree(path, library, symlinks=True, dirs_exist_ok=True, ignore=_POINTING_ELSEWHERE)
    package = Path(postroika.__file__).parent
    shutil.copytree(package, library / package.name)
    for compiled in package.parent.glob("postroika_*.so"):
        shutil.copy2(compiled, library)
    for path in home.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))
    # Where the interpreter is a library, the program knows the place of the one that it was built with, out of reach.
    begin = home / "bin" / "python"
    begin.write_text(f'#!/bin/sh\nexport LD_LIBRARY_PATH={home}/lib\nexec {python} "$@"\n')
    begin.chmod(0o755)
    return str(begin)
