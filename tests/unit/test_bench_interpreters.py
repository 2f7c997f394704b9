"""Other interpreters: what they say of themselves, and one line for each that cannot be used."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from postroika import __version__
from postroika.bench import interpreter_facts
from postroika.bench.interpreters import look_at, look_at_all
from postroika.bench.peers.postroika import Postroika
from postroika.errors import PostroikaError

_NAME = f"{platform.python_implementation()} {platform.python_version()}"


def program(path: Path, script: str) -> str:
    """A file that can be run in place of an interpreter."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_an_interpreter_tells_of_itself() -> None:
    told = look_at(sys.executable)
    assert (told.name, told.postroika) == (_NAME, __version__)
    assert told.build == interpreter_facts.build()
    assert told.loop_ns > 0
    assert Path(told.source, "bench", "interpreters.py").exists()


def test_a_build_names_its_compiler_and_optimisations(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'"}
    monkeypatch.setattr("sysconfig.get_config_var", flags.get)
    monkeypatch.setattr("platform.python_compiler", lambda: "GCC 12.2.0")
    monkeypatch.setattr(interpreter_facts, "_is_shared", lambda: False)
    assert interpreter_facts.build() == "GCC 12.2.0, PGO/LTO, static"
    flags = {"PY_CORE_CFLAGS": "-O3 -fprofile-use"}
    monkeypatch.setattr("sysconfig.get_config_var", flags.get)
    monkeypatch.setattr(interpreter_facts, "_is_shared", lambda: True)
    assert interpreter_facts.build() == "GCC 12.2.0, PGO, libpython shared"
    monkeypatch.setattr("sysconfig.get_config_var", {}.get)
    assert interpreter_facts.build() == "GCC 12.2.0, neither PGO nor LTO named, libpython shared"


def test_labels_are_given_or_follow_from_the_version() -> None:
    found = look_at_all([f"mine={sys.executable}", sys.executable])
    assert [(label, path, one.name) for label, (path, one) in found.items()] == [
        ("mine", sys.executable, _NAME),
        (_NAME, sys.executable, _NAME),
    ]
    with pytest.raises(PostroikaError, match=r"^two interpreters are called"):
        look_at_all([sys.executable, sys.executable])


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo Traceback >&2; echo \"ModuleNotFoundError: No module named 'postroika'\" >&2; exit 1",
            "ModuleNotFoundError",
        ),
        ("exit 0", "it does not say why"),
        ("echo usage", "it does not say why"),
    ],
)
def test_an_interpreter_without_postroika_is_told_in_one_line(tmp_path: Path, script: str, why: str) -> None:
    python = program(tmp_path / "python", script)
    with pytest.raises(PostroikaError) as told:
        look_at(python)
    assert str(told.value).startswith(f"{python} cannot run Postroika: {why}")
    assert "\n" not in str(told.value)
    assert Postroika(python).missing() == str(told.value)


def test_a_missing_kernel_is_told(tmp_path: Path) -> None:
    for name in ("postroika", "postroika/kernels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("__version__ = '0.1.0'\n")
    (tmp_path / "postroika/kernels/stuff.pyi").touch()
    python = program(tmp_path / "python", f'PYTHONPATH={tmp_path} exec {sys.executable} "$@"')
    with pytest.raises(PostroikaError, match=r"No module named 'postroika\.kernels\.stuff'"):
        look_at(python)


def test_a_path_where_nothing_is_is_told(tmp_path: Path) -> None:
    with pytest.raises(PostroikaError, match=r"^there is no interpreter .*/python: No such file or directory$"):
        look_at(str(tmp_path / "python"))
