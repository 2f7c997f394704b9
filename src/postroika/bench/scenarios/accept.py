"""`accept`: into a durable queue, and no further: what a burst of submissions meets."""

from postroika.bench import bars
from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, POSTFIX_DRIVER, Bar, Case, Setup, Size
from postroika.bench.turns import Turns

_OURS, _POSTFIX = "Postroika", "Postfix"

SCENARIO = Turns(
    name="accept",
    about="4 KB messages over 50 sessions into a durable queue whose delivery is suspended, until the last 250",
    unit="messages",
    until="accepted",
    load=LoadSettings(target="", sessions=50, size="4096"),
    cases=(
        Case(label=_OURS, setup=Setup(peer=OURS, suspended=True)),
        Case(label=_POSTFIX, setup=Setup(peer=POSTFIX, suspended=True)),
    ),
    drivers=(OWN_DRIVER, POSTFIX_DRIVER),
    headline=True,
    quick=Size(rounds=3, messages=12_000, turn_s=1.2, warm_up=400),
    full=Size(rounds=5, messages=50_000, turn_s=30, warm_up=2_000),
    bars=(
        Bar("÷ Postfix, by smtp-source", "at least", 6, 10, "×", bars.speed(_OURS, _POSTFIX, POSTFIX_DRIVER)),
        Bar("÷ Postfix, by our load", "at least", 6, 10, "×", bars.speed(_OURS, _POSTFIX, OWN_DRIVER)),
    ),
)
