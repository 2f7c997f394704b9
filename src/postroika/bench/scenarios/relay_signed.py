"""`relay-signed`: as `relay`, with a DKIM signature (RSA-2048) on each message; beside what the machine can sign.

Postfix has OpenDKIM as its filter. What all cores sign at most, with nothing else to do, is what `openssl speed` says,
which is asked before each round.
"""

from __future__ import annotations

import os
import re

import msgspec

from postroika.bench import bars
from postroika.bench.bench import Bench
from postroika.bench.load_settings import LoadSettings
from postroika.bench.peers.program import run
from postroika.bench.peers.signing import filter_missing
from postroika.bench.results import BarResult, Figure, Figures, ScenarioResult, median
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, Bar, Case, Setup, Size, Void
from postroika.bench.turns import Turns

_OURS, _POSTFIX = "Postroika", "Postfix with OpenDKIM"
_SHARE, _STRETCH_SHARE = 0.7, 0.85
_RATE = re.compile(r"^rsa 2048 bits +[\d.]+s +[\d.]+s +([\d.]+)", re.MULTILINE)


class _Signed(Turns, frozen=True, kw_only=True):
    """Turns, and what OpenSSL signs before each round: how fast a shared machine is changes from one second to the
    next.

    Args:
        rates: of the rounds of one run.
    """

    rates: list[float] = msgspec.field(default_factory=list)

    def run(self, bench: Bench) -> ScenarioResult:
        """All rounds; those of ours alone where there is no OpenDKIM."""
        missing = filter_missing()
        turns = msgspec.structs.replace(self, rates=[], cases=self.cases if missing is None else self.cases[:1])
        result = super(_Signed, turns).run(bench)
        rates = turns.rates
        figures = Figures(result.turns, result.unit)
        shares = [
            rate / rates[turn.round - 1]
            for turn in figures.turns(_OURS, OWN_DRIVER)
            if (rate := figures.rate(turn)) is not None
        ]
        share = BarResult(
            what="share of what OpenSSL signs",
            sense="at least",
            bar=_SHARE,
            stretch=_STRETCH_SHARE,
            unit="",
            measured=median(shares),
        )
        signed: tuple[Figure, ...] = ()
        if (most := median(rates)) is not None:  # None: it was over before the first round
            what = "openssl speed rsa2048, all cores"
            signed = (Figure(what=what, value=most, unit="signatures/s", rounds=tuple(rates)),)
        return msgspec.structs.replace(
            result,
            figures=(*result.figures, *signed),
            bars=(share, *result.bars),
            remarks=(*result.remarks, *([missing] if missing else [])),
        )

    def before_round(self, bench: Bench) -> None:
        """Ask OpenSSL."""
        bench.teller.step(f"{self.name}: what OpenSSL signs")
        self.rates.append(_signatures_per_s(1 if bench.quick else 3))


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
