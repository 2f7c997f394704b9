"""`big`: messages of 50 MB, with DATA and with BDAT: how much memory they take, and how fast they go through."""

from postroika.bench import bars
from postroika.bench.load_settings import LoadSettings
from postroika.bench.results import Turn
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, Bar, Case, Setup, Size
from postroika.bench.turns import RESIDENT_ABOVE_IDLE, Turns

_OURS, _OURS_BDAT, _POSTFIX, _POSTFIX_BDAT = "Postroika, DATA", "Postroika, BDAT", "Postfix, DATA", "Postfix, BDAT"
_SIZE_BYTES = 50_000_000
_BDAT = {"bdat": True}
_OUR_SETUP = Setup(peer=OURS, extra={"limits": {"max_message_bytes": 2 * _SIZE_BYTES}})
_POSTFIX_SETUP = Setup(peer=POSTFIX, extra={"message_size_limit": str(2 * _SIZE_BYTES)})


def _above_idle_mb(turn: Turn) -> float | None:
    grown = turn.figures.get(RESIDENT_ABOVE_IDLE)
    return None if grown is None else grown / 1e6


SCENARIO = Turns(
    name="big",
    about="messages of 50 MB over 4 sessions, with DATA and with BDAT, until the sink has the last one",
    unit="MB",
    load=LoadSettings(target="", sessions=4, size=str(_SIZE_BYTES)),
    cases=(
        Case(label=_OURS, setup=_OUR_SETUP),
        Case(label=_POSTFIX, setup=_POSTFIX_SETUP),
        Case(label=_OURS_BDAT, setup=_OUR_SETUP, load=_BDAT),
        Case(label=_POSTFIX_BDAT, setup=_POSTFIX_SETUP, load=_BDAT),
    ),
    drivers=(OWN_DRIVER,),
    quick=Size(rounds=1, messages=8, turn_s=0, warm_up=0, estimate_s=45),
    full=Size(rounds=3, messages=20, turn_s=0, warm_up=2, estimate_s=300),
    bars=(
        Bar("RSS above idle, DATA", "at most", 100, 40, "MB", bars.largest(_OURS, OWN_DRIVER, _above_idle_mb)),
        Bar("RSS above idle, BDAT", "at most", 100, 40, "MB", bars.largest(_OURS_BDAT, OWN_DRIVER, _above_idle_mb)),
        Bar("MB/s ÷ Postfix, DATA", "at least", 2, 4, "×", bars.speed(_OURS, _POSTFIX, OWN_DRIVER)),
        Bar("MB/s ÷ Postfix, BDAT", "at least", 2, 4, "×", bars.speed(_OURS_BDAT, _POSTFIX_BDAT, OWN_DRIVER)),
    ),
)
