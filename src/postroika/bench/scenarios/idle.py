"""`idle`: clients that have said EHLO and nothing since, as connection pools of applications do.

The memory is that of all processes while all sessions are open, less what it was with a quarter of them, so that what
the server keeps for later does not count. Postfix has a process for each session, and so gets fewer of them.
"""

from __future__ import annotations

import resource
import time

import msgspec

from postroika.bench import bars
from postroika.bench.bench import Bench, Measured, Server, measure
from postroika.bench.load_settings import LoadSettings
from postroika.bench.meter import Memory
from postroika.bench.record import Record
from postroika.bench.results import Figure, ScenarioResult, Turn
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, Bar, Case, Setup, Void
from postroika.bench.scope import Scope
from postroika.bench.sink_settings import SinkSettings
from postroika.bench.turns import take_turn

_OURS, _POSTFIX = "Postroika", "Postfix"
_QUICK_SESSIONS, _FULL_SESSIONS = 2_000, 10_000
# Its default_process_limit is 100; when all are in use it hurries its clients.
_POSTFIX_SESSIONS = 90
_HOLD_S = 3.0
_WARM_UP_MESSAGES = 300
# Listeners, spool, logs, and the sessions of whoever else is there.
_SPARE_FILES = 500
_OPEN = "sessions"
_RESIDENT, _PRIVATE = "resident bytes of an idle session", "private bytes of an idle session"


class _Idle(msgspec.Struct, frozen=True, kw_only=True):
    """See `scenario.Scenario`."""

    name: str = "idle"
    about: str = "sessions that have said EHLO and nothing since: what each of them costs in memory"
    drivers: tuple[str, ...] = (OWN_DRIVER,)
    headline: bool = False
    bars: tuple[Bar, ...] = (
        Bar(
            "RSS of an idle session",
            "at most",
            24,
            12,
            "KB",
            bars.largest(_OURS, OWN_DRIVER, lambda turn: turn.figures[_RESIDENT] / 1e3),
        ),
    )

    def estimate_s(self, scope: Scope) -> float:
        """How long it takes with two servers, roughly; it has no rounds."""
        return 26 if scope.quick else 60

    def run(self, bench: Bench) -> ScenarioResult:
        """One server after the other."""
        record = Record(self, bench)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _QUICK_SESSIONS if bench.quick else _FULL_SESSIONS
        sessions = min(wanted, files - _SPARE_FILES)
        cases = bench.cases(
            [
                Case(label=_OURS, setup=_our_setup(sessions), load={"idle_sessions": sessions}),
                Case(label=_POSTFIX, setup=Setup(peer=POSTFIX), load={"idle_sessions": _POSTFIX_SESSIONS}),
            ],
            others=False,
            headline=False,
        )
        with record:
            for case in cases:
                with bench.server(case.setup) as server:
                    load = LoadSettings(target="", sessions=0, messages=0, duration_s=_HOLD_S, **case.load)
                    record.contenders.append(bench.contender(case, server, load))
                    record.turns.append(_turn(bench, case, server, load))
        remarks = [f"{turn.contender}: {turn.figures[_OPEN]:,.0f} sessions" for turn in record.turns]
        remarks += [f"the limit of open files allows {sessions} sessions, not {wanted}"] if sessions < wanted else []
        return record.result(self.bars, figures=_figures(record.turns), remarks=remarks)


def _our_setup(sessions: int) -> Setup:
    """All sessions come from one address here."""
    limits = {"max_connections": sessions + _SPARE_FILES, "max_connections_per_ip": sessions + _SPARE_FILES}
    return Setup(peer=OURS, extra={"limits": limits})


def _turn(bench: Bench, case: Case, server: Server, load: LoadSettings) -> Turn:
    """Hold a quarter of the sessions, then all of them, and look at the memory.

    Raises:
        Void: not all of them could be had.
    """
    # What the first messages load once is not the sessions' fault.
    warm_up = LoadSettings(target="", messages=_WARM_UP_MESSAGES)
    take_turn(bench, server, OWN_DRIVER, warm_up, SinkSettings(), label=case.label, number=0)
    few = load.idle_sessions // 4
    with measure(server) as measured:
        before = _hold(bench, case, server, measured, msgspec.structs.replace(load, idle_sessions=few))
        began = time.monotonic()
        now = _hold(bench, case, server, measured, load)
        elapsed_s = time.monotonic() - began
        measured.work_is_done()
    more = load.idle_sessions - few
    return Turn(
        contender=case.label,
        driver=OWN_DRIVER,
        round=1,
        messages=0,
        recipients=0,
        bytes=0,
        elapsed_s=elapsed_s,
        accepted_s=elapsed_s,
        figures={
            _OPEN: load.idle_sessions,
            _RESIDENT: (now.resident_bytes - before.resident_bytes) / more,
            _PRIVATE: (now.private_bytes - before.private_bytes) / more,
        },
        **measured.figures(),
    )


def _hold(bench: Bench, case: Case, server: Server, measured: Measured, load: LoadSettings) -> Memory:
    """The most memory while all sessions are there and nothing moves."""
    bench.teller.step(f"idle: {load.idle_sessions} sessions with {case.label}")
    held = bench.drivers[OWN_DRIVER].load(msgspec.structs.replace(load, target=server.target))
    end_s = measured.elapsed_s()
    # The last seconds of a load are the hold and the hang-up, in which nothing grows.
    looks = [Memory(*look[1:]) for look in measured.samples() if look[0] > end_s - _HOLD_S]
    if held.idle_sessions < load.idle_sessions or not looks:
        raise Void(f"{case.label}: of {load.idle_sessions} sessions {held.idle_sessions} were held: {held.errors}")
    return max(looks)


def _figures(turns: list[Turn]) -> list[Figure]:
    return [
        Figure(what=f"{turn.contender}: {what.replace('bytes', 'memory')}", value=turn.figures[what] / 1e3, unit="KB")
        for turn in turns
        for what in (_RESIDENT, _PRIVATE)
    ]


SCENARIO = _Idle()
