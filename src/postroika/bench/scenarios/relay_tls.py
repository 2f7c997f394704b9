"""`relay-tls`: as `relay`, with TLS on both sides: after STARTTLS, and over connections that stay."""

from postroika.bench import bars
from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, Bar, Case, Setup, Size
from postroika.bench.sink_settings import SinkSettings
from postroika.bench.turns import Turns

_OURS, _LARGE, _POSTFIX, _POSTFIX_LARGE = "Postroika", "Postroika, 100 KB", "Postfix", "Postfix, 100 KB"
_100_KB = {"size": "102400"}

SCENARIO = Turns(
    name="relay-tls",
    about="4 KB and 100 KB messages over 50 sessions, with TLS on both sides",
    unit="messages",
    load=LoadSettings(target="", sessions=50, size="4096", tls="starttls"),
    sink=SinkSettings(tls="starttls"),
    cases=(
        Case(label=_OURS, setup=Setup(peer=OURS, tls=True)),
        Case(label=_POSTFIX, setup=Setup(peer=POSTFIX, tls=True)),
        Case(label=_LARGE, setup=Setup(peer=OURS, tls=True), load=_100_KB),
        Case(label=_POSTFIX_LARGE, setup=Setup(peer=POSTFIX, tls=True), load=_100_KB),
    ),
    others=False,
    quick=Size(rounds=2, messages=6_000, turn_s=1, warm_up=200),
    full=Size(rounds=5, messages=20_000, turn_s=20, warm_up=1_000),
    bars=(
        Bar("÷ Postfix", "at least", 4, 6, "×", bars.speed(_OURS, _POSTFIX, OWN_DRIVER)),
        Bar("÷ Postfix, 100 KB", "at least", 4, 6, "×", bars.speed(_LARGE, _POSTFIX_LARGE, OWN_DRIVER)),
        Bar("CPU for each message ÷ Postfix", "at most", 1 / 4, 1 / 6, "", bars.cpu(_OURS, _POSTFIX, OWN_DRIVER)),
    ),
)
