"""`fanout`: one message to everybody, as an announcement to all customers.

smtp-source gives all recipients of a message one domain, so this runs with our load alone.
"""

from postroika.bench import bars
from postroika.bench.load_settings import LoadSettings
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, Bar, Case, Setup, Size
from postroika.bench.turns import Turns

_OURS, _POSTFIX = "Postroika", "Postfix"
_RECIPIENTS = 100_000

# Both have to be told that a message may have so many.
_OURS_EXTRA = {"limits": {"max_recipients": _RECIPIENTS}}
_POSTFIX_EXTRA = {"smtpd_recipient_limit": str(_RECIPIENTS)}

SCENARIO = Turns(
    name="fanout",
    about="one 4 KB message to 100,000 recipients in 1,000 domains (quick: 30,000 in 300), until the last one has it",
    unit="recipients",
    load=LoadSettings(target="", sessions=1, size="4096", recipients=_RECIPIENTS, domains=1_000),
    cases=(
        Case(label=_OURS, setup=Setup(peer=OURS, extra=_OURS_EXTRA)),
        Case(label=_POSTFIX, setup=Setup(peer=POSTFIX, extra=_POSTFIX_EXTRA)),
    ),
    drivers=(OWN_DRIVER,),
    # The sink takes no message for so many recipients at once, nor does any server of the world.
    floor=False,
    quick=Size(rounds=2, messages=1, turn_s=0, warm_up=1, estimate_s=40, load={"recipients": 30_000, "domains": 300}),
    full=Size(rounds=5, messages=1, turn_s=0, warm_up=1, estimate_s=200),
    bars=(Bar("recipients/s ÷ Postfix", "at least", 8, 20, "×", bars.speed(_OURS, _POSTFIX, OWN_DRIVER)),),
)
