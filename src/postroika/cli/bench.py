"""`postroika bench`: the harness. Load, sink and scenarios are verbs of their own.

Each verb is a click command in the module that `_VERBS` names (`bench_NAME.py` beside this file); it is imported only
when it is called or listed, and is left out where its module is not there.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import ClassVar

import click

from postroika.cli import Verbs


class _BenchVerbs(Verbs):
    """The verbs of the harness, from the modules that have them."""

    # The order is that of the help: first what people run, then the parts of it.
    _VERBS: ClassVar[dict[str, tuple[str, str]]] = {
        "run": ("bench_run", "command"),
        "list": ("bench_run", "list_command"),
        "report": ("bench_run", "report_command"),
        "load": ("bench_load", "command"),
        "sink": ("bench_sink", "command"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verb, (module, _) in self._VERBS.items() if importlib.util.find_spec(_full(module))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module, attribute = self._VERBS[cmd_name]
        command = getattr(importlib.import_module(_full(module)), attribute)
        assert isinstance(command, click.Command)
        return command


def _full(module: str) -> str:
    return f"{__package__}.{module}"


@click.group("bench", cls=_BenchVerbs)
def command() -> None:
    """Measure servers, side by side.

    There are a load generator, a sink, and scenarios with both.
    """
