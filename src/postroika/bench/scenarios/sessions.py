"""`sessions`: a new connection for each message, as scripts and simple clients do."""

from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, POSTFIX_DRIVER, Case, Setup, Size
from postroika.bench.turns import Turns

SCENARIO = Turns(
    name="sessions",
    about="4 KB messages, each over a connection of its own, 50 at once, until the sink has the last one",
    unit="messages",
    load=LoadSettings(target="", sessions=50, size="4096", messages_per_connection=1),
    cases=(
        Case(label="Postroika", setup=Setup(peer=OURS)),
        Case(label="Postfix", setup=Setup(peer=POSTFIX)),
    ),
    drivers=(OWN_DRIVER, POSTFIX_DRIVER),
    quick=Size(rounds=2, messages=8_000, turn_s=1.2, warm_up=200),
    full=Size(rounds=5, messages=20_000, turn_s=30, warm_up=1_000),
)
