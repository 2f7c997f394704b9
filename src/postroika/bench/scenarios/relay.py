"""`relay`, the headline: small messages from many sessions through a server to a sink that takes everything."""

from postroika.bench import bars
from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, POSTFIX_DRIVER, Bar, Case, Setup, Size
from postroika.bench.turns import Turns

_OURS, _MANY, _POSTFIX = "Postroika", "Postroika, 500 sessions", "Postfix"

SCENARIO = Turns(
    name="relay",
    about="4 KB messages over 50 sessions, from the first connection until the sink has the last one",
    unit="messages",
    load=LoadSettings(target="", sessions=50, size="4096"),
    cases=(
        Case(label=_OURS, setup=Setup(peer=OURS)),
        Case(label=_POSTFIX, setup=Setup(peer=POSTFIX)),
        Case(label=_MANY, setup=Setup(peer=OURS), load={"sessions": 500}, drivers=(OWN_DRIVER,)),
    ),
    drivers=(OWN_DRIVER, POSTFIX_DRIVER),
    headline=True,
    quick=Size(rounds=3, messages=12_000, turn_s=1, warm_up=400),
    full=Size(rounds=5, messages=40_000, turn_s=30, warm_up=2_000),
    bars=(
        Bar(
            "÷ Postfix, smtp-source and -sink",
            "at least",
            8,
            12,
            "×",
            bars.speed(_OURS, _POSTFIX, POSTFIX_DRIVER),
        ),
        Bar("÷ Postfix, our load and sink", "at least", 8, 12, "×", bars.speed(_OURS, _POSTFIX, OWN_DRIVER)),
        Bar("÷ the floor", "at least", 0.35, 0.5, "", bars.floor_share(_OURS, OWN_DRIVER)),
        Bar(
            "CPU for each message ÷ Postfix",
            "at most",
            1 / 10,
            1 / 15,
            "",
            bars.first(bars.cpu(_OURS, _POSTFIX, POSTFIX_DRIVER), bars.cpu(_OURS, _POSTFIX, OWN_DRIVER)),
        ),
        Bar("500 sessions ÷ 50", "at least", 0.9, 1, "", bars.speed(_MANY, _OURS, OWN_DRIVER)),
        Bar("500 sessions: accept p99 ÷ p50", "at most", 3, None, "", bars.accept_spread(_MANY, OWN_DRIVER)),
    ),
)
