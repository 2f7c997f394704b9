"""`slow`: a next hop that is far away or busy, so that what counts is how many conversations go on at once."""

from postroika.bench import bars
from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, Bar, Case, Setup, Size
from postroika.bench.sink_settings import SinkSettings
from postroika.bench.turns import Turns
from postroika.mail.outcome import Stage

_OURS, _POSTFIX, _MANY = "Postroika", "Postfix", "Postfix, 500 processes"
_CONNECTIONS = 500
_DELAY_S = 0.2

SCENARIO = Turns(
    name="slow",
    about="a next hop that answers each command after 200 ms and allows 500 connections; 4 KB messages",
    unit="messages",
    load=LoadSettings(target="", sessions=50, size="4096"),
    sink=SinkSettings(
        delays_s=dict.fromkeys((Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT), _DELAY_S),
        max_connections=_CONNECTIONS,
    ),
    cases=(
        Case(label=_OURS, setup=Setup(peer=OURS, connections=_CONNECTIONS)),
        Case(label=_POSTFIX, setup=Setup(peer=POSTFIX, connections=_CONNECTIONS)),
        Case(label=_MANY, setup=Setup(peer=POSTFIX, connections=_CONNECTIONS, processes=_CONNECTIONS)),
    ),
    drivers=(OWN_DRIVER,),
    floor=False,
    # The same number for all: a short turn would be all beginning and end, where connections are few.
    quick=Size(rounds=1, messages=2_500, turn_s=0, warm_up=100, estimate_s=55),
    full=Size(rounds=3, messages=20_000, turn_s=0, warm_up=500, estimate_s=900),
    bars=(
        Bar("÷ Postfix with its own process limit", "at least", 4, 10, "×", bars.speed(_OURS, _POSTFIX, OWN_DRIVER)),
        Bar("÷ Postfix with 500 processes", "at least", 1.5, 3, "×", bars.speed(_OURS, _MANY, OWN_DRIVER)),
    ),
)
