"""Loads a hooks.py: the file with which users judge clients and mail themselves (docs/hooks.md).

Promise: code runs only if nobody but root or the user of this process could have written it. What is wrong with a file,
whatever that is, becomes one ConfigError that names it; then nothing of it is used.

`python -m postroika.policy.hook_file FILE < FILE` tells what is wrong with it, for those who must not run it
themselves.
"""

from __future__ import annotations

import inspect
import os
import stat
import sys
import traceback
import types
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from postroika.errors import ConfigError

Function: TypeAlias = Callable[..., Awaitable[Any]]

# The functions that a file may have, in the order of the dialogue, with the names of what they are given.
FUNCTIONS = {
    "connect": ("client",),
    "ehlo": ("client", "name"),
    "mail": ("client", "mail"),
    "rcpt": ("client", "mail", "recipient"),
    "data": ("client", "envelope"),
    "message": ("client", "message"),
}
MODULE = "postroika_hooks"  # as tracebacks, pickles and dataclasses call it
_MOST_BYTES = 16 * 1024 * 1024


class HookFile(NamedTuple):
    """A file that can be used.

    Args:
        functions: by name, in the order of `FUNCTIONS`; at least one.
    """

    source: bytes
    functions: dict[str, Function]


def read(path: str, owners: Collection[int] = ()) -> bytes:
    """What is in it.

    Args:
        owners: user ids that it may belong to, beside root and who we are.

    Raises:
        ConfigError: it cannot be read, or others could have written it; the text names the mend.
    """
    try:
        with Path(path).open("rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MOST_BYTES:
                raise ConfigError(f"{path}: is not a file of Python")
            if facts.st_uid not in {0, os.geteuid(), *owners}:
                raise ConfigError(f"{path}: belongs to user {facts.st_uid}, who could have us do anything: chown it")
            if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError(
                    f"{path}: may be written by others (mode {stat.S_IMODE(facts.st_mode):04o}): chmod go-w"
                )
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {error.strerror}") from None


def load(path: str, source: bytes | None = None) -> HookFile:
    """Read the file and run it. What it imports has to be installed where Postroika is.

    Args:
        source: what is in it, if it has been read.

    Raises:
        ConfigError: it cannot be used.
    """
    source = read(path) if source is None else source
    code = compiled(path, source)
    module = types.ModuleType(MODULE)
    module.__file__ = path
    before = sys.modules.get(MODULE)
    sys.modules[MODULE] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - it is what the file is for
        return HookFile(source, _functions(path, module))
    except BaseException as error:  # whatever it is called, it comes from the file
        if before is None:
            del sys.modules[MODULE]
        else:
            sys.modules[MODULE] = before
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}{_line_of(error, path)}: {type(error).__name__}: {error}") from error  # noqa: ASYNC104


def compiled(path: str, source: bytes) -> types.CodeType:
    """The code of the file, which is not run.

    Raises:
        ConfigError: it is no Python.
    """
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise ConfigError(f"{path}{line}: {error.msg}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _functions(path: str, module: types.ModuleType) -> dict[str, Function]:
    functions: dict[str, Function] = {}
    for name, parameters in FUNCTIONS.items():
        function = getattr(module, name, None)
        if function is None:
            continue
        if not inspect.iscoroutinefunction(function):
            raise ConfigError(f"{path}: {name} is not an async function: write `async def {name}(...)`")
        try:
            inspect.signature(function).bind(*parameters)
        except TypeError:
            raise ConfigError(f"{path}: {name} has to take ({', '.join(parameters)})") from None
        functions[name] = function
    if not functions:
        raise ConfigError(f"{path}: has none of the functions {', '.join(FUNCTIONS)}")
    return functions


def _line_of(error: BaseException, path: str) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f":{lines[-1]}" if lines else ""


def main(arguments: list[str]) -> int:
    """See above."""
    try:
        load(arguments[0], sys.stdin.buffer.read())
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return os.EX_CONFIG
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
