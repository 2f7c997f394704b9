"""The sections of the config file as frozen structs: every key with its type, bounds, meaning and default.

This is the one source for decoding, for the commented default config and for docs/config.md; `sections_inbound` and
`sections_outbound` have those of the mail that comes and goes. Bounds that one key can break alone are declared here;
what takes more than one look is in `check`.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from postroika.config.sections_base import Count, CountOrZero, MiB, SecondsOrZero, Section, Text
from postroika.config.sections_inbound import Account, Accounts, Blocklist, Certificate, Limits, Listener, Policy, Relay
from postroika.config.sections_outbound import Delivery, Dkim, Dns, Retry, Route, Signing, Sts, Tlsrpt


class Server(Section, frozen=True, kw_only=True):
    """Who we are and where our files are. Relative paths are relative to the directory of this file."""

    hostname: Annotated[str, "Our name: in the greeting, in Received: and in bounces. Empty = the machine's name."] = ""
    workers: Annotated[int, Meta(ge=0, le=256), "Worker processes; 0 = one per core."] = 0
    spool: Annotated[Text, "The directory that keeps accepted mail, one shard a worker."] = "var/spool"
    control: Annotated[Text, "The Unix socket through which `postroika queue` and others talk to the server."] = (
        "var/control.sock"
    )


class Process(Section, frozen=True, kw_only=True):
    """Who the server runs as, when root starts it: root opens the listeners and reads the keys, and does no more."""

    user: Annotated[
        str,
        "The user, by name or number, that the supervisor and its workers become for good. Empty = whoever starts the "
        'server, and root must not. "root" lets everything run as root: for trying things out only.',
    ] = ""
    group: Annotated[str, "The group, by name or number; empty = that of the user. There are no further ones."] = ""
    umask: Annotated[str, "Permissions that no new file has, in octal."] = "077"


class Spool(Section, frozen=True, kw_only=True):
    """The store of accepted mail."""

    max_bytes: Annotated[
        int, Meta(ge=MiB, le=2**46), "How large one shard may grow: address space, not reserved disk."
    ] = 256 * 1024 * MiB
    low_water_bytes: Annotated[
        CountOrZero,
        "With less space than this, mail gets 452: the room is for done-marks and bounces.",
    ] = 64 * MiB
    lock_wait_s: Annotated[SecondsOrZero, "How long a start waits for another instance to let go of the spool."] = 10.0


class Log(Section, frozen=True, kw_only=True):
    """What is written down."""

    events: Annotated[str, "The file of events, one JSON object a line; empty = none."] = "var/log/events.jsonl"
    rotate_bytes: Annotated[Count, "The file of events is renamed when it is that large."] = 256 * MiB
    keep: Annotated[CountOrZero, "Renamed files of events that are kept."] = 10
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        "The least severe message of the operations log, on stderr.",
    ] = "info"


class Sink(Section, frozen=True, kw_only=True):
    """A built-in SMTP sink that `postroika serve` starts beside the server, for trying things out."""

    address: Annotated[str, '"address:port", loopback only.']
    refuse: Annotated[tuple[str, ...], "Recipients that it refuses for good (550); * matches any text."] = ("bounce@*",)
    defer: Annotated[tuple[str, ...], "Recipients that it refuses for now (450); * matches any text."] = ("defer@*",)


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    server: Server = Server()
    process: Process = Process()
    listener: tuple[Listener, ...] = (Listener(address="127.0.0.1:2525"),)
    certificate: tuple[Certificate, ...] = ()
    relay: Relay = Relay()
    accounts: Accounts = Accounts()
    account: tuple[Account, ...] = ()
    route: tuple[Route, ...] = (Route(domains=("*",)),)
    dns: Dns = Dns()
    sts: Sts = Sts()
    limits: Limits = Limits()
    policy: Policy = Policy()
    blocklist: tuple[Blocklist, ...] = ()
    delivery: Delivery = Delivery()
    dkim: tuple[Dkim, ...] = ()
    signing: Signing = Signing()
    tlsrpt: Tlsrpt = Tlsrpt()
    retry: Retry = Retry()
    spool: Spool = Spool()
    log: Log = Log()
    sink: Sink | None = None


def _struct_in(kind: object) -> type[msgspec.Struct]:
    return next(k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, msgspec.Struct))


SECTIONS: dict[str, type[msgspec.Struct]] = {f.name: _struct_in(f.type) for f in msgspec.structs.fields(Config)}
"""The struct of each section by its name in the file."""
