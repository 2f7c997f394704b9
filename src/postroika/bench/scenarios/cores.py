"""`cores`: what a second worker brings, and each further one.

Load and sink use cores too: with two cores in all, the second worker has only what they leave. The CPU that each took
stands in the result, and with it the most that can be had.
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


def _label(workers: int) -> str:
    return f"Postroika, {workers} worker{'s' if workers > 1 else ''}"


SCENARIO = Turns(
    name="cores",
    about=f"as relay, with {', '.join(map(str, _WORKERS))} workers",
    unit="messages",
    load=LoadSettings(target="", sessions=50, size="4096"),
    cases=tuple(Case(label=_label(workers), setup=Setup(peer=OURS, workers=workers)) for workers in _WORKERS),
    drivers=(OWN_DRIVER,),
    others=False,
    quick=Size(rounds=3, messages=20_000, turn_s=2, warm_up=400),
    full=Size(rounds=5, messages=40_000, turn_s=30, warm_up=2_000),
    bars=(Bar("2 workers ÷ 1", "at least", 1.6, 1.9, "×", bars.speed(_label(2), _label(1), OWN_DRIVER)),),
)
