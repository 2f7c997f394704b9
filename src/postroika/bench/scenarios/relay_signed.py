"""`relay-signed`: as `relay`, with a DKIM signature (RSA-2048) on each message; beside what the machine can sign.

Postfix has OpenDKIM as its filter. What all cores sign at most, with nothing else to do, is what `openssl speed` says,
which is asked before the first round and after the last one.
"""

from __future__ import annotations

import os
import re
import statistics

import msgspec

from postroika.bench import bars
from postroika.bench.bench import Bench
from postroika.bench.load_settings import LoadSettings
from postroika.bench.peers.program import run
from postroika.bench.peers.signing import filter_missing
from postroika.bench.results import BarResult, Figure, Figures, ScenarioResult
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, Bar, Case, Setup, Size, Void
from postroika.bench.turns import Turns

_OURS, _POSTFIX = "Postroika", "Postfix with OpenDKIM"
_SHARE, _STRETCH_SHARE = 0.7, 0.85
_RATE = re.compile(r"^rsa 2048 bits +[\d.]+s +[\d.]+s +([\d.]+)", re.MULTILINE)


class _Signed(Turns, frozen=True, kw_only=True):
    """Turns, and what OpenSSL signs before and after them."""

    def run(self, bench: Bench) -> ScenarioResult:
        """All rounds; those of ours alone where there is no OpenDKIM."""
        missing = filter_missing()
        turns = self if missing is None else msgspec.structs.replace(self, cases=self.cases[:1])
        seconds = 1 if bench.quick else 3
        bench.teller.step(f"{self.name}: what OpenSSL signs")
        rates = [_signatures_per_s(seconds)]
        result = super(_Signed, turns).run(bench)
        bench.teller.step(f"{self.name}: what OpenSSL signs")
        rates.append(_signatures_per_s(seconds))
        most = statistics.median(rates)
        figures = Figures(result.turns, result.unit)
        ours = figures.median(_OURS, OWN_DRIVER, figures.rate)
        share = BarResult(
            what="share of what OpenSSL signs",
            sense="at least",
            bar=_SHARE,
            stretch=_STRETCH_SHARE,
            unit="",
            measured=None if ours is None else ours / most,
        )
        figure = Figure(what="openssl speed rsa2048, all cores", value=most, unit="signatures/s", rounds=tuple(rates))
        return msgspec.structs.replace(
            result,
            figures=(*result.figures, figure),
            bars=(share, *result.bars),
            remarks=(*result.remarks, *([missing] if missing else [])),
        )


def _signatures_per_s(seconds: int) -> float:
    """What all cores sign when they do nothing else.

    Raises:
        Void: OpenSSL does not tell.
    """
    cores = len(os.sched_getaffinity(0))
    said = run(["openssl", "speed", "-seconds", str(seconds), "-multi", str(cores), "rsa2048"])
    found = _RATE.search(said)
    if found is None:
        raise Void(f"openssl speed does not say how much it signs:\n{said}")
    return float(found[1])


SCENARIO = _Signed(
    name="relay-signed",
    about="4 KB messages over 50 sessions, each signed with DKIM (RSA-2048)",
    unit="messages",
    load=LoadSettings(target="", sessions=50, size="4096"),
    cases=(
        Case(label=_OURS, setup=Setup(peer=OURS, signed=True)),
        Case(label=_POSTFIX, setup=Setup(peer=POSTFIX, signed=True)),
    ),
    others=False,
    quick=Size(rounds=2, messages=6_000, turn_s=1, warm_up=200),
    full=Size(rounds=5, messages=20_000, turn_s=20, warm_up=1_000),
    bars=(
        Bar("÷ Postfix with OpenDKIM", "at least", 6, None, "×", bars.speed(_OURS, _POSTFIX, OWN_DRIVER)),
        Bar("CPU for each message ÷ Postfix", "at most", 1 / 6, None, "", bars.cpu(_OURS, _POSTFIX, OWN_DRIVER)),
    ),
)
