"""`relay-100k`: as `relay`, with messages of the size that pictures and attachments make."""

from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, POSTFIX_DRIVER, Case, Setup, Size
from postroika.bench.turns import Turns

SCENARIO = Turns(
    name="relay-100k",
    about="100 KB messages over 50 sessions, from the first connection until the sink has the last one",
    unit="messages",
    load=LoadSettings(target="", sessions=50, size="102400"),
    cases=(
        Case(label="Postroika", setup=Setup(peer=OURS)),
        Case(label="Postfix", setup=Setup(peer=POSTFIX)),
    ),
    drivers=(OWN_DRIVER, POSTFIX_DRIVER),
    quick=Size(rounds=2, messages=6_000, turn_s=1.5, warm_up=200),
    full=Size(rounds=5, messages=20_000, turn_s=30, warm_up=1_000),
)
