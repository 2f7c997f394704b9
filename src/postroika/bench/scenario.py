"""What a scenario is, and the kind that most are: the same load through several servers in turns.

A scenario is a module of `postroika.bench.scenarios` with a `SCENARIO`. It says what is sent and where the clock stops,
which servers take part with which settings, and which bars hold for what comes out; `turns` does the work. A scenario
that is not a load in turns (idle sessions, a backlog) has a `run` of its own, and uses the parts of `turns`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import msgspec

from postroika.bench.results import BarResult, Figures, ScenarioResult
from postroika.errors import PostroikaError

if TYPE_CHECKING:
    from postroika.bench.bench import Bench
    from postroika.bench.scope import Scope

OURS = "postroika"
POSTFIX = "postfix"

OWN_DRIVER = "own"
POSTFIX_DRIVER = "postfix"


class Void(PostroikaError):
    """What was measured counts for nothing: mail was lost, doubled or damaged, or did not come through."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """A server with settings. Cases with equal setups share one running server.

    Args:
        peer: its adaptor's name.
        workers: of those that have such; 0 = one for each core.
        connections: to the next hop, at once.
        processes: Postfix's default_process_limit; None leaves its default.
        cpu_cores: what it may use of them, where the system can bound it; 0 = all there are. For ours only.
        suspended: it accepts and keeps, but delivers nothing.
        tls: it offers STARTTLS, and uses it where the next hop offers it.
        signed: all that goes out has a DKIM signature with RSA-2048. For ours and Postfix only.
        extra: settings of this server alone, in its own words.
        interpreter: the label of that which runs it, of `Scope.interpreters`; "" is the one that runs the harness.
    """

    peer: str
    workers: int = 0
    connections: int = 20
    processes: int | None = None
    cpu_cores: float = 0.0
    suspended: bool = False
    tls: bool = False
    signed: bool = False
    extra: Mapping[str, Any] = {}
    interpreter: str = ""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One contender of a scenario: a server with settings, and how its load differs from that of the scenario.

    Args:
        load: fields of LoadSettings that differ.
        drivers: those it takes part with, of the scenario's; None: all.
    """

    label: str
    setup: Setup
    load: Mapping[str, Any] = {}
    drivers: tuple[str, ...] | None = None


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a scenario is run.

    Args:
        rounds: turns of each contender.
        messages: the most that one turn sends.
        turn_s: a contender that cannot move as many in this time gets fewer, as many as it can: the rate is what
            counts, and half a minute of a slow server tells it no better than three seconds. 0 = all get `messages`.
        warm_up: messages before the first round.
        load: fields of LoadSettings that differ with the size.
        estimate_s: how long it takes with two servers, roughly; 0 = what follows from `turn_s`.
    """

    rounds: int
    messages: int
    turn_s: float
    warm_up: int
    estimate_s: float = 0.0
    load: Mapping[str, Any] = {}


class Bar(NamedTuple):
    """What a scenario's outcome is held against."""

    what: str
    sense: Literal["at least", "at most"]
    bar: float
    stretch: float | None
    unit: str
    measure: Callable[[Figures], float | None]

    def against(self, figures: Figures) -> BarResult:
        """The bar with what was measured."""
        return BarResult(
            what=self.what,
            sense=self.sense,
            bar=self.bar,
            stretch=self.stretch,
            unit=self.unit,
            measured=self.measure(figures),
        )


class Scenario(Protocol):
    """What `postroika bench run` can run.

    Attributes:
        drivers: those it can be run with.
        headline: whether servers beyond ours and Postfix take part without having been asked for.

    `estimate_s` is how long it will take, roughly. `run` may raise Void, but better returns a result with `void` set,
    and all that was seen until then.
    """

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def drivers(self) -> tuple[str, ...]: ...
    @property
    def headline(self) -> bool: ...
    def estimate_s(self, scope: Scope) -> float: ...
    def run(self, bench: Bench) -> ScenarioResult: ...


def names() -> list[str]:
    """All scenarios, in the order in which they are run."""
    from postroika.bench import scenarios

    found = [module.name.replace("_", "-") for module in pkgutil.iter_modules(scenarios.__path__)]
    return sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def load(name: str) -> Scenario:
    """A scenario by its name.

    Raises:
        PostroikaError: there is none.
    """
    if name not in names():
        raise PostroikaError(f"there is no scenario {name!r}; there are {', '.join(names())}")
    module = importlib.import_module(f"postroika.bench.scenarios.{name.replace('-', '_')}")
    scenario: Scenario = module.SCENARIO
    return scenario


def loads(chosen: Iterable[str]) -> list[Scenario]:
    """Those of these names, or all, in the order in which they are run."""
    wanted = set(chosen)
    for name in wanted.difference(names()):
        load(name)
    return [load(name) for name in names() if not wanted or name in wanted]


# The headline first; those that are long or fill the disk last.
_ORDER = (
    "relay",
    "relay-100k",
    "relay-tls",
    "relay-signed",
    "accept",
    "sessions",
    "list",
    "fanout",
    "slow",
    "mixed",
    "cores",
    "kernels",
    "big",
    "idle",
    "backlog",
)
