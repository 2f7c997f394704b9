"""`cores`: what a second worker brings, and each further one.

Load and sink use cores too: of two cores in all, a second worker would get only what they leave. So a worker may use
three quarters of a core, where the system can bound it (control groups), and what is compared is work for the same CPU
time. The settings in the report say whether it could.
"""

from __future__ import annotations

import os

from postroika.bench import bars
from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, Bar, Case, Setup, Size
from postroika.bench.turns import Turns

_CORES = len(os.sched_getaffinity(0))
# 1, 2, 4, … and all of them.
_WORKERS = sorted({1, 2, *(2**power for power in range(2, 10) if 2**power < _CORES), _CORES})
_CORES_A_WORKER = 0.75


def _label(workers: int) -> str:
    return f"Postroika, {workers} worker{'s' if workers > 1 else ''}"


def _setup(workers: int) -> Setup:
    return Setup(peer=OURS, workers=workers, cpu_cores=workers * _CORES_A_WORKER)


SCENARIO = Turns(
    name="cores",
    about=f"as relay, with {', '.join(map(str, _WORKERS))} workers, three quarters of a core for each",
    unit="messages",
    load=LoadSettings(target="", sessions=50, size="4096"),
    cases=tuple(Case(label=_label(workers), setup=_setup(workers)) for workers in _WORKERS),
    drivers=(OWN_DRIVER,),
    others=False,
    quick=Size(rounds=3, messages=20_000, turn_s=2, warm_up=400),
    full=Size(rounds=5, messages=40_000, turn_s=30, warm_up=2_000),
    bars=(Bar("2 workers ÷ 1", "at least", 1.6, 1.9, "×", bars.speed(_label(2), _label(1), OWN_DRIVER)),),
)
