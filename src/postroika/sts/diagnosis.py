"""What MTA-STS comes to for one domain, for an operator who asks why.

Promise: it looks as delivery does (the same resolver, policy host rules and store), and changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import trio

from postroika.config import Config
from postroika.routing import mx
from postroika.routing.resolver import Answer, Resolver, Status
from postroika.routing.table import RouteTable
from postroika.sts.fetch import Fetcher, FetchError
from postroika.sts.policy import StsPolicy, parse_policy
from postroika.sts.record import owner_name, read_records
from postroika.sts.store import DIRECTORY, PolicyStore


class Published(msgspec.Struct, frozen=True):
    """What the domain shows to the world.

    Args:
        id: of its record; "" if there is none that counts.
        policy: None if there is none that counts.
        problem: what is wrong; "" if nothing is, also where there is nothing.
    """

    id: str = ""
    policy: StsPolicy | None = None
    problem: str = ""


class Host(msgspec.Struct, frozen=True):
    """A host that takes the domain's mail.

    Args:
        named: by the policy that is heeded; None if there is none.
        verdict: what that means.
    """

    name: str
    named: bool | None
    verdict: str


class Diagnosis(msgspec.Struct, frozen=True):
    """All of it.

    Args:
        passed_over: why nobody asks for a policy here; "" if somebody does.
        kept: the policy in the store, if it holds.
        kept_in: its file.
        kept_problem: why that cannot be seen.
        heeded: the policy that holds for mail that goes out now.
        hosts_problem: why there are no hosts.
    """

    domain: str
    passed_over: str
    published: Published
    kept: StsPolicy | None
    kept_in: str
    kept_problem: str
    heeded: StsPolicy | None
    hosts: tuple[Host, ...]
    hosts_problem: str


async def diagnose(config: Config, domain: str, fetched_at: float) -> Diagnosis:
    """Look at everything about one domain.

    Args:
        domain: in canonical form.
        fetched_at: epoch seconds, now.

    Raises:
        ConfigError: `sts.ca` cannot be used.
    """
    resolver = Resolver(config.dns)
    fetcher = Fetcher(config.sts, config.dns, resolver)
    store = PolicyStore(Path(config.server.spool) / DIRECTORY)
    kept = await trio.to_thread.run_sync(store.load, domain)
    published = await _published(resolver, fetcher, domain, fetched_at)
    heeded = kept or published.policy
    passed_over = _passed_over(config, domain)
    names, problem = _hosts(domain, await resolver.mx(domain))
    return Diagnosis(
        domain=domain,
        passed_over=passed_over,
        published=published,
        kept=kept,
        kept_in=str(store.path(domain)),
        kept_problem=_unreadable(store.directory),
        heeded=None if passed_over else heeded,
        hosts=tuple(_judged(name, None if passed_over else heeded) for name in names),
        hosts_problem=problem,
    )


def _passed_over(config: Config, domain: str) -> str:
    if not config.sts.enabled:
        return "sts.enabled is false"
    hops = RouteTable(config.route).hops(domain)
    if hops is not None:
        return f"a [[route]] names the next hop: {', '.join(hop.text for hop in hops)}"
    return ""


async def _published(resolver: Resolver, fetcher: Fetcher, domain: str, fetched_at: float) -> Published:
    answer = await resolver.txt(owner_name(domain))
    if answer.status is Status.FAILED:
        return Published(problem=f"DNS look-up of {owner_name(domain)} failed: {answer.detail}")
    try:
        record_id = read_records(answer.records)
    except ValueError as error:
        return Published(problem=f"the record counts as none: {error}")
    if not record_id:
        return Published()
    try:
        policy = parse_policy(await fetcher.fetch(domain)).of(domain, record_id, fetched_at)
    except (FetchError, ValueError) as error:
        return Published(record_id, None, f"the policy counts as none: {error}")
    return Published(record_id, policy)


def _unreadable(directory: Path) -> str:
    """Why nobody can see here what is kept; "" if that can be seen."""
    try:
        directory.stat()
    except FileNotFoundError:
        return ""
    except PermissionError:
        pass
    else:
        if os.access(directory, os.R_OK | os.X_OK):
            return ""
    return f"{directory} is closed to you: ask as the user that the server runs as"


def _hosts(domain: str, answer: Answer[mx.Mx]) -> tuple[list[str], str]:
    """The names of the MX hosts, best first; or why there are none."""
    if answer.status is Status.FAILED:
        return [], f"DNS look-up of MX failed: {answer.detail}"
    if answer.status is Status.NXDOMAIN:
        return [], f"{domain} does not exist"
    records = answer.records or (mx.Mx(0, domain),)  # RFC 5321 §5.1: a name without MX records is its own
    groups = mx.preference_groups(records, ())
    if groups is mx.MxProblem.NULL:
        return [], f"{domain} accepts no mail (null MX)"
    if isinstance(groups, mx.MxProblem):
        return [], f"no MX record of {domain} names a host"
    return [name for group in groups for name in group], ""


def _judged(name: str, policy: StsPolicy | None) -> Host:
    if policy is None or policy.mode == "none":
        return Host(name, None, "no policy asks for anything of it")
    named = policy.matches(name)
    if policy.mode == "enforce":
        verdict = "gets mail over TLS with a good certificate only, or the mail waits" if named else "gets no mail"
    else:
        verdict = "TLS that fails is reported, and stops nothing" if named else "gets mail all the same; it is reported"
    return Host(name, named, verdict)
