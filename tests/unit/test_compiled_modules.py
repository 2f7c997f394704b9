"""What must not be in modules that mypyc compiles, for it would go wrong without a word (ADR 10)."""

import ast
import importlib
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GROUPS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["postroika"]["compiled"]
NAMES = [name for names in GROUPS.values() for name in names]


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    source = ROOT / "src" / f"{name.replace('.', '/')}.py"
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def handlers(node: ast.AST) -> Iterator[ast.ExceptHandler]:
    """Of a function, without those of functions in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ExceptHandler):
            yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from handlers(child)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_given_to_caught_errors_of_different_types(name: str) -> None:
    for function in functions(name):
        types: dict[str, set[str]] = {}
        for handler in handlers(function):
            if handler.name is not None and handler.type is not None:
                types.setdefault(handler.name, set()).add(ast.unparse(handler.type))
        assert {caught: sorted(of) for caught, of in types.items() if len(of) > 1} == {}, function.name


HARMLESS = {"len", "find", "rfind"}


@pytest.mark.parametrize("name", NAMES)
def test_no_bound_of_a_slice_is_a_call_with_an_effect(name: str) -> None:
    """Where it has no slicing of its own for a type (memoryview, say), mypyc works the bounds out twice."""
    source = ROOT / "src" / f"{name.replace('.', '/')}.py"
    bounds = [
        bound
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Slice)
        for bound in (node.lower, node.upper)
        if bound is not None
    ]
    calls = [call for bound in bounds for call in ast.walk(bound) if isinstance(call, ast.Call)]
    called = {call.func.id if isinstance(call.func, ast.Name) else ast.unparse(call.func) for call in calls}
    assert {what for what in called if what.rpartition(".")[2] not in HARMLESS} == set()


@pytest.mark.skipif("CI" not in os.environ, reason="a developer may work with INTERPRETED=1")
def test_what_is_tested_is_compiled() -> None:
    files = {name: importlib.import_module(name).__file__ or "" for name in NAMES}
    assert [name for name, file in files.items() if not file.endswith(".so")] == []
