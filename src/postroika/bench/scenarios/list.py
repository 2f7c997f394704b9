"""`list`: many messages to a hundred recipients each, as a busy mailing list sends them.

smtp-source gives all recipients of a message one domain; with our load they are in ten. The sink is ours in both cases,
since smtp-sink does not count recipients.
"""

from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, POSTFIX_DRIVER, Case, Setup, Size
from postroika.bench.turns import Turns

SCENARIO = Turns(
    name="list",
    about="4 KB messages to 100 recipients each over 20 sessions, until the sink has them all",
    unit="recipients",
    load=LoadSettings(target="", sessions=20, size="4096", recipients=100, domains=10),
    cases=(
        Case(label="Postroika", setup=Setup(peer=OURS)),
        Case(label="Postfix", setup=Setup(peer=POSTFIX)),
    ),
    drivers=(OWN_DRIVER, POSTFIX_DRIVER),
    by_driver={POSTFIX_DRIVER: {"domains": 1}},
    # smtp-sink counts messages alone, and servers divide these recipients as they like.
    sinks={POSTFIX_DRIVER: OWN_DRIVER},
    quick=Size(rounds=2, messages=400, turn_s=2, warm_up=20),
    full=Size(rounds=3, messages=20_000, turn_s=120, warm_up=200),
)
