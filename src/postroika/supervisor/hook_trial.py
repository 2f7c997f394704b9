"""Tries a hooks.py before a start, in a process of its own: neither the supervisor nor root runs the code of it.

Promise: what would keep a worker from using the file is told at once, and not by every worker; a file that does not
come to its end when it is loaded is no use either.
"""

from __future__ import annotations

import os
import subprocess
import sys

from postroika.errors import ConfigError
from postroika.policy.hook_file import compiled, read
from postroika.process.identity import Identity

_TIMEOUT_S = 60.0


def try_hooks(path: str, become: Identity | None) -> None:
    """Load the file as the user of the workers would.

    Args:
        become: who they will be; None for who we are.

    Raises:
        ConfigError: it cannot be used.
    """
    uid = os.geteuid() if become is None else become.uid
    source = read(path, owners=(uid,))
    compiled(path, source)
    command = [sys.executable, "-P", "-m", "postroika.policy.hook_file", path]
    try:
        if become is None:
            done = subprocess.run(command, input=source, capture_output=True, timeout=_TIMEOUT_S, check=False)
        else:
            done = subprocess.run(
                command, input=source, capture_output=True, timeout=_TIMEOUT_S, check=False, cwd="/",
                user=become.uid, group=become.gid, extra_groups=(),
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{path}: was not loaded within {_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be tried: {error.strerror}") from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        end = f"had Python killed by signal {-done.returncode}"
        if done.returncode > 0:
            end = f"ended Python with exit code {done.returncode}"
        raise ConfigError(last or f"{path}: {end}")
