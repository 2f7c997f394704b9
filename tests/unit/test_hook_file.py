"""policy.hook_file: what can be loaded, and how it is told what cannot."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from postroika.errors import ConfigError
from postroika.policy import hook_file

GOOD = "async def mail(client, mail):\n    return None\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hooks.py"


def written(path: Path, text: str, mode: int = 0o644) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def problem(path: Path, text: str) -> str:
    name = written(path, text)
    with pytest.raises(ConfigError) as caught:
        hook_file.load(name)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(name)


def test_functions_are_found_in_the_order_of_the_dialogue(path: Path) -> None:
    text = """\
from __future__ import annotations
import dataclasses
async def message(client, message): return "m"
async def connect(client, more=1): return "c"
async def _helper(): ...
async def other(x): ...
@dataclasses.dataclass
class Memory:
    n: int = 0
class Rules:
    async def rcpt(self, client, mail, recipient): return "r"
rcpt = Rules().rcpt
"""
    found = hook_file.load(written(path, text))
    assert list(found.functions) == ["connect", "rcpt", "message"]
    assert found.source == text.encode()
    assert asyncio.run(found.functions["rcpt"](1, 2, 3)) == "r"  # type: ignore[arg-type]
    assert found.functions["message"].__module__ == hook_file.MODULE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("async def mail(client, mail)\n    pass\n", ":1: expected ':'"),
        ("import no_such_module\n" + GOOD, ":1: ModuleNotFoundError: No module named 'no_such_module'"),
        (GOOD + "\n1 / 0\n", ":4: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", ":2: SystemExit: 3"),
        ("raise KeyboardInterrupt('no')\n", ":1: KeyboardInterrupt: no"),
        ("\nraise GeneratorExit\n", ":2: GeneratorExit: "),
        ("raise BaseExceptionGroup('odd', [KeyboardInterrupt()])", ":1: BaseExceptionGroup: odd (1 sub-exception)"),
        ("def mail(client, mail): pass\n", ": mail is not an async function: write `async def mail(...)`"),
        ("mail = 3\n", ": mail is not an async function: write `async def mail(...)`"),
        ("async def mail(client): pass\n", ": mail has to take (client, mail)"),
        ("async def rcpt(client, recipient): pass\n", ": rcpt has to take (client, mail, recipient)"),
        ("", ": has none of the functions connect, ehlo, mail, rcpt, data, message"),
        ("x = '\\x00'; y = '\x00'\n", ": source code string cannot contain null bytes"),
    ],
)
def test_what_is_wrong_is_told(path: Path, text: str, told: str) -> None:
    sys.modules.pop(hook_file.MODULE, None)
    assert problem(path, text) == told
    assert hook_file.MODULE not in sys.modules


def test_broken_file_leaves_the_module_of_the_good_one(path: Path) -> None:
    hook_file.load(written(path, GOOD))
    module = sys.modules[hook_file.MODULE]
    problem(path, "1 / 0")
    assert sys.modules[hook_file.MODULE] is module


def test_missing_file(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hooks\.py: cannot read it: No such file or directory$"):
        hook_file.load(str(path))
    with pytest.raises(ConfigError, match=r"cannot read it: Is a directory$|is not a file of Python$"):
        hook_file.load(str(path.parent))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o620])
def test_code_that_others_may_write_is_not_run(path: Path, mode: int) -> None:
    name = written(path, f"open({str(path) + '.ran'!r}, 'w')\n{GOOD}", mode)
    with pytest.raises(ConfigError) as caught:
        hook_file.load(name)
    assert str(caught.value) == f"{name}: may be written by others (mode {mode:04o}): chmod go-w"
    assert not Path(f"{name}.ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_code_of_somebody_else_is_not_run(path: Path) -> None:
    name = written(path, GOOD)
    os.chown(path, 12345, 0)
    with pytest.raises(ConfigError) as caught:
        hook_file.load(name)
    assert str(caught.value) == f"{name}: belongs to user 12345, who could have us do anything: chown it"
    assert hook_file.read(name, owners=(12345,)) == GOOD.encode()


@pytest.mark.parametrize(
    ("text", "code", "told"), [(GOOD, 0, ""), ("1 / 0\n", 78, "x.py:1: ZeroDivisionError: division by zero\n")]
)
def test_in_a_process_of_its_own(text: str, code: int, told: str) -> None:
    command = [sys.executable, "-P", "-m", "postroika.policy.hook_file", "x.py"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, told)
