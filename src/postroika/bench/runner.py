"""Runs scenarios one after the other and makes the report of them.

Promise: a scenario that goes wrong says so in the report and does not keep the next one from running; what was measured
before it went wrong is kept in the raw figures, and counts for nothing.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import msgspec

from postroika.bench import machine, results
from postroika.bench.bench import Bench
from postroika.bench.interpreters import Interpreter
from postroika.bench.pace import Pace, duration_text
from postroika.bench.report_html import page
from postroika.bench.report_markdown import markdown
from postroika.bench.results import Report, ScenarioResult
from postroika.bench.scenario import Scenario
from postroika.errors import PostroikaError


def run(
    scenarios: Sequence[Scenario],
    bench: Bench,
    directory: Path,
    missing: dict[str, str],
    settings: dict[str, Any],
    interpreters: Mapping[str, Interpreter] = {},
) -> Report:
    """Run them all, and tell how far it is.

    Args:
        directory: where the queues are.
        missing: servers that cannot take part, and why.
        settings: what the command was told, for the report; an interruption (KeyboardInterrupt) is noted there, and
            ends it with what there is by then.
        interpreters: what those of the bench say of themselves.
    """
    began = time.monotonic()
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = machine.describe(directory, interpreters=interpreters)
    can_run = []
    for scenario in scenarios:
        if set(scenario.drivers) & set(bench.driver_names):
            can_run.append(scenario)
        else:
            bench.teller.say(f"{scenario.name} is left out: it needs --driver {scenario.drivers[0]}", style="yellow")
    done: list[ScenarioResult] = []
    pace = bench.teller.pace = Pace([scenario.estimate_s(bench) for scenario in can_run])
    for number, scenario in enumerate(can_run):
        pace.begin(number)
        times = f"about {duration_text(pace.scenario_s())} of {duration_text(pace.left_s())}"
        bench.teller.say(f"{scenario.name} ({times}): {scenario.about}", style="bold")
        try:
            result = run_one(scenario, bench)
        except KeyboardInterrupt:
            settings["interrupted"] = _interrupted(can_run, number, "before it had measured anything")
            break
        pace.end()
        if result.void:
            bench.teller.say(f"{result.name} is VOID: {result.void}", style="bold red")
        done.append(result)
        if result.interrupted:
            settings["interrupted"] = _interrupted(can_run, number, result.interrupted)
            break
    if "interrupted" in settings:
        bench.teller.say(f"Interrupted {settings['interrupted']}", style="bold red")
    contenders = [one for result in done for one in result.contenders]
    facts["peers"] = {one.label.partition(",")[0]: one.version for one in contenders if not one.interpreter}
    facts["cpu_time_from"] = ", ".join(sorted({one.cpu_method for one in contenders}))
    return Report(
        at=at,
        took_s=time.monotonic() - began,
        machine=facts,
        settings=settings,
        missing=missing,
        scenarios=tuple(done),
    )


def _interrupted(scenarios: Sequence[Scenario], number: int, where: str) -> str:
    """Where it ended, and what was left out."""
    later = [one.name for one in scenarios[number + 1 :]]
    told = f"during {scenarios[number].name}, {where}"
    return f"{told}; not run: {', '.join(later)}" if later else told


def run_one(scenario: Scenario, bench: Bench) -> ScenarioResult:
    """One scenario; what goes wrong makes it void."""
    began = time.monotonic()
    try:
        result = scenario.run(bench)
    except PostroikaError as error:
        result = ScenarioResult(
            name=scenario.name,
            about=scenario.about,
            size=bench.size,
            unit="messages",
            took_s=time.monotonic() - began,
            void=str(error),
        )
    noise = [one.bystanders for one in result.turns if one.bystanders is not None]
    return msgspec.structs.replace(result, bystanders=max(noise, default=result.bystanders))


def check_directory(directory: Path) -> None:
    """Make the directory of the report, and see whether a file can be written there.

    Raises:
        PostroikaError: it cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise PostroikaError(f"no report can be written to {directory}: {error.strerror}") from None


def write(report: Report, directory: Path) -> dict[str, Path]:
    """The JSON, the Markdown and the page, named by the moment; returns where each is.

    Raises:
        PostroikaError: they cannot be written.
    """
    moment = datetime.datetime.fromisoformat(report.at)
    contents = {"json": results.encode(report), "md": markdown(report).encode(), "html": page(report).encode()}
    return write_files(contents, directory / f"{moment:%Y-%m-%d-%H%M%S}")


def write_files(contents: dict[str, bytes], base: Path) -> dict[str, Path]:
    """Contents by the ending of their file's name; returns the files.

    Raises:
        PostroikaError: they cannot be written.
    """
    files = {}
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        for ending, content in contents.items():
            files[ending] = base.with_name(f"{base.name}.{ending}")
            files[ending].write_bytes(content)
    except OSError as error:
        raise PostroikaError(f"cannot write {base}: {error.strerror}") from None
    return files


def read(file: Path) -> Report:
    """A report from its JSON file.

    Raises:
        PostroikaError: it cannot be read, or is none.
    """
    try:
        return results.decode(file.read_bytes())
    except OSError as error:
        raise PostroikaError(f"cannot read {file}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise PostroikaError(f"{file} is no report of the harness: {error}") from None
