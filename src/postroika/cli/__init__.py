"""The command line. Promise: one clear line on stderr and a meaningful exit code for whatever goes wrong.

Every module of this package whose name has no leading underscore is a verb: it exports a click command named `command`
(a click.Group of class `Verbs` where it has verbs of its own), which may return an exit code. GROUP_VERB beside a
module GROUP is none: it belongs to that group. A module is imported only when its verb is called, and verbs import the
rest of Postroika inside their functions, so that `postroika version` costs little more than the interpreter.

Exit codes: see `ExitCode`. A PostroikaError is shown as one line, with its traceback under `--debug`; any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import enum
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Sequence

import click

from postroika.errors import ConfigError, ControlError, PostroikaError, SpoolLockedError


class ExitCode(enum.IntEnum):
    """What the process ends with. Values above 63 are those of sysexits.h, which service managers know."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69  # EX_UNAVAILABLE: no server answers at the control socket
    LOCKED = 75  # EX_TEMPFAIL: another instance owns the spool
    CONFIG = 78  # EX_CONFIG: the config file is missing or wrong
    INTERRUPTED = 128 + signal.SIGINT  # as shells count it
    BROKEN_PIPE = 128 + signal.SIGPIPE  # the reader of our output is gone (`| head`)


class Verbs(click.Group):
    """A group that names the nearest verb when it does not know one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            import difflib

            known = self.list_commands(ctx)
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
            ctx.fail(f"No such command '{name}'. {hint}")
        return super().resolve_command(ctx, args)


class _LazyVerbs(Verbs):
    """The verbs are the modules of this package; each is imported when it is called."""

    ORDER = (
        *("serve", "check", "default-config", "send", "sink", "queue", "events"),
        *("account", "dkim", "sts", "tlsrpt", "bench", "version"),
    )

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")}
        found = {name.replace("_", "-") for name in names if name.partition("_")[0] not in names - {name}}
        return [name for name in self.ORDER if name in found] + sorted(found.difference(self.ORDER))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_LazyVerbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 69 no server answers, 75 the spool is in use, 78 bad config.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(debug: bool) -> None:
    """Postroika, a mail transfer agent: accepts mail, keeps it safe, delivers it."""


def run(args: Sequence[str]) -> int:
    """Run the command line `args` (without the program's name) and return the exit code."""
    if "_POSTROIKA_COMPLETE" in os.environ:  # the shell asks for completions; click answers and ends the process
        command.main(prog_name="postroika")
    debug, args = _take_debug(args)
    try:
        # Not command.main(), which turns a broken pipe and others into exit codes of its own.
        with command.make_context("postroika", args) as context:
            result = command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()
        return ExitCode.BROKEN_PIPE
    except PostroikaError as error:
        return _report([error], debug=debug)
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        errors = [leaf for leaf in leaves if isinstance(leaf, PostroikaError)]
        if len(errors) == len(leaves):
            return _report(errors, debug=debug)
        if all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
            return ExitCode.INTERRUPTED
        raise
    return result if isinstance(result, int) else ExitCode.OK


def _take_debug(args: Sequence[str]) -> tuple[bool, list[str]]:
    """--debug may stand anywhere before a "--", also after the verb."""
    end = args.index("--") if "--" in args else len(args)
    kept = [arg for arg in args[:end] if arg != "--debug"]
    return len(kept) < end, [*kept, *args[end:]]


def _report(errors: Sequence[PostroikaError], *, debug: bool) -> int:
    for error in errors:
        if debug:
            import traceback

            traceback.print_exception(error)
        else:
            for line in str(error).splitlines():
                click.echo(f"postroika: {line}", err=True)
    return _exit_code(errors[0])


def _exit_code(error: PostroikaError) -> ExitCode:
    if isinstance(error, ConfigError):
        return ExitCode.CONFIG
    if isinstance(error, SpoolLockedError):
        return ExitCode.LOCKED
    if isinstance(error, ControlError):
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _give_up_stdout() -> None:
    """The interpreter flushes stdout once more when it ends; let that go nowhere instead of complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
