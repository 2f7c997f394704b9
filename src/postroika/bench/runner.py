"""Runs scenarios one after the other and makes the report of them.

Promise: a scenario that goes wrong says so in the report and does not keep the next one from running; what was measured
before it went wrong is kept in the raw figures, and counts for nothing.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from postroika.bench import machine, results
from postroika.bench.bench import Bench
from postroika.bench.report_html import page
from postroika.bench.report_markdown import markdown
from postroika.bench.results import Report, ScenarioResult
from postroika.bench.scenario import OURS, POSTFIX, Scenario
from postroika.errors import PostroikaError

# What a further server adds to a quick scenario that it takes part in.
_FURTHER_SERVER_S = 10.0


def estimate_s(scenarios: Sequence[Scenario], bench: Bench) -> float:
    """How long they will take, roughly."""
    further = len(set(bench.peers) - {OURS, POSTFIX})
    base_s = sum(scenario.estimate_s(quick=bench.quick, rounds=bench.rounds) for scenario in scenarios)
    return base_s + further * _FURTHER_SERVER_S * sum(scenario.headline for scenario in scenarios)


def run(
    scenarios: Sequence[Scenario], bench: Bench, directory: Path, missing: dict[str, str], settings: dict[str, Any]
) -> Report:
    """Run them all.

    Args:
        directory: where the queues are.
        missing: servers that cannot take part, and why.
        settings: what the command was told, for the report; an interruption (KeyboardInterrupt) is noted there, and
            ends it with what there is by then.
    """
    began = time.monotonic()
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = machine.describe(directory)
    done = []
    for scenario in scenarios:
        if "interrupted" in settings:
            break
        if not set(scenario.drivers) & set(bench.driver_names):
            bench.teller.say(f"{scenario.name} is left out: it needs --driver {scenario.drivers[0]}", style="yellow")
            continue
        bench.teller.say(f"{scenario.name}: {scenario.about}", style="bold")
        try:
            result = run_one(scenario, bench)
        except KeyboardInterrupt:
            settings["interrupted"] = f"during {scenario.name}, which is not in the report"
            continue
        if result.void:
            bench.teller.say(f"{result.name} is VOID: {result.void}", style="bold red")
        done.append(result)
    contenders = [one for result in done for one in result.contenders]
    facts["peers"] = {one.label.partition(",")[0]: one.version for one in contenders}
    facts["cpu_time_from"] = ", ".join(sorted({one.cpu_method for one in contenders}))
    return Report(
        at=at,
        took_s=time.monotonic() - began,
        machine=facts,
        settings=settings,
        missing=missing,
        scenarios=tuple(done),
    )


def run_one(scenario: Scenario, bench: Bench) -> ScenarioResult:
    """One scenario; what goes wrong makes it void."""
    began = time.monotonic()
    try:
        return scenario.run(bench)
    except PostroikaError as error:
        return ScenarioResult(
            name=scenario.name,
            about=scenario.about,
            size=bench.size,
            unit="messages",
            took_s=time.monotonic() - began,
            void=str(error),
        )


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
