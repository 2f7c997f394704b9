"""What `postroika sink` and `postroika bench sink` have in common: how the sink behaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from postroika.bench.sink_settings import SinkSettings
    from postroika.mail.outcome import Stage

F = TypeVar("F", bound=Callable[..., Any])

STAGE_NAMES = ("greeting", "ehlo", "mail", "rcpt", "data", "final_dot")
_SHARE = click.FloatRange(0, 1)
_FACTORS = {"k": 1000.0, "m": 1_000_000.0}


def _delays(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[Stage, float]:
    """--delay STAGE=SECONDS."""
    from postroika.mail.outcome import Stage

    delays: dict[Stage, float] = {}
    for value in values:
        stage, _, seconds = value.partition("=")
        try:
            delay_s = float(seconds)
        except ValueError:
            delay_s = -1.0
        if stage not in STAGE_NAMES or not 0 <= delay_s < float("inf"):
            text = f"{value!r} is not STAGE=SECONDS with a stage of {', '.join(STAGE_NAMES)}"
            raise click.BadParameter(text, ctx=ctx, param=param)
        delays[Stage(stage)] = delay_s
    return delays


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    """--bytes-per-s 64k."""
    if value is None:
        return 0.0
    factor = _FACTORS.get(value[-1:].lower(), 1.0)
    try:
        rate = float(value if factor == 1.0 else value[:-1]) * factor
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"{value!r} is not a number of bytes above zero, as 64000, 64k or 2M", ctx, param)
    return rate


_OPTIONS = (
    click.option("--listen", multiple=True, metavar="ADDRESS:PORT", help="Where; may be repeated.  [127.0.0.1:2526]"),
    click.option("--hostname", default="sink.localhost", show_default=True, help="The name in the greeting."),
    click.option("--refuse", multiple=True, metavar="GLOB", help="Recipients that get 550; may be repeated."),
    click.option("--defer", multiple=True, metavar="GLOB", help="Recipients that get 451; may be repeated."),
    click.option("--refuse-share", type=_SHARE, default=0.0, metavar="SHARE", help="Of the others, 0 to 1."),
    click.option("--defer-share", type=_SHARE, default=0.0, metavar="SHARE", help="Of the others, 0 to 1."),
    click.option(
        "--greylist",
        type=click.FloatRange(min=0),
        is_flag=False,
        flag_value=0.0,
        metavar="[SECONDS]",
        help="Defer each recipient the first time, and until so long after it.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of all that goes by share."),
    click.option(
        "--delay",
        "delays_s",
        multiple=True,
        callback=_delays,
        metavar="STAGE=SECONDS",
        help=f"Wait before the reply; may be repeated. Stages: {', '.join(STAGE_NAMES)}.",
    ),
    click.option("--hang-up-at", type=click.Choice(STAGE_NAMES), help="Close the connection in place of a reply."),
    click.option("--hang-up-share", type=_SHARE, default=1.0, metavar="SHARE", help="In how many cases, 0 to 1."),
    click.option(
        "--messages-per-connection", type=click.IntRange(min=0), default=0, metavar="N", help="Then MAIL gets 421."
    ),
    click.option("--max-connections", type=click.IntRange(min=0), default=0, metavar="N", help="The next gets 421."),
    click.option("--bytes-per-s", callback=_rate, metavar="BYTES", help="Read no faster, in all; as 2M."),
    click.option("--connection-bytes-per-s", callback=_rate, metavar="BYTES", help="Nor from each; as 64k."),
    click.option("--without", multiple=True, metavar="EXTENSION", help="Do not offer this, as CHUNKING; repeatable."),
    click.option("--tls", type=click.Choice(("none", "starttls", "implicit")), default="none", show_default=True),
    click.option("--certificate", default="", metavar="FILE", help="PEM; without it one is made with openssl."),
    click.option("--key", default="", metavar="FILE", help="Its key, if that is not in the same file."),
    click.option("--store", default="", metavar="DIR", help="Keep each message in this Maildir."),
    click.option("--unique", default="", metavar="FIELD", help="Count doubles by this header field, as Message-ID."),
)


def sink_options(function: F) -> F:
    """Adds the options; `settings` understands them, `listen` is for the caller."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def settings(*, hang_up_at: str | None, without: tuple[str, ...], greylist: float | None, **more: Any) -> SinkSettings:
    """What the options say.

    Raises:
        click.UsageError: an extension that is not known, a key without a certificate.
    """
    from postroika.bench.sink_settings import SinkSettings
    from postroika.mail.outcome import Stage
    from postroika.smtp.server import EXTENSIONS

    unknown = [name for name in without if name.upper() not in EXTENSIONS]
    if unknown:
        raise click.UsageError(f"--without {unknown[0]}: known are {', '.join(sorted(EXTENSIONS))}")
    if more["key"] and not more["certificate"]:
        raise click.UsageError("--key needs --certificate")
    hang_up_share = more.pop("hang_up_share")
    return SinkSettings(
        disconnect_at=Stage(hang_up_at) if hang_up_at else None,
        disconnect_share=hang_up_share,
        extensions=EXTENSIONS - {name.upper() for name in without},
        greylist=greylist is not None,
        greylist_s=greylist or 0.0,
        **more,
    )
