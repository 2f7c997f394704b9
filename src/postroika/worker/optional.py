"""Parts of a worker that there are only where the config asks for them: what is not used is not even loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from postroika.config import Config, goes_by_mx
from postroika.policy.accounts import Accounts
from postroika.routing.resolver import Resolver
from postroika.spool.store import Store

if TYPE_CHECKING:
    from postroika.signing.signer import Signer
    from postroika.sts.policies import StsPolicies
    from postroika.tlsrpt.reports import Reports

_SWITCH_INTERVAL_S = 0.0005


def make_accounts(config: Config, workers: int) -> Accounts | None:
    """Those who may log in; None if nobody may.

    Raises:
        ConfigError: the file of accounts cannot be used.
    """
    settings = config.accounts
    if not settings.file and not config.account:
        return None
    file = Path(settings.file) if settings.file else None
    return Accounts(config.account, file, workers=workers, threads=settings.hash_threads)


def make_signer(config: Config, store: Store) -> Signer | None:
    """Signs what goes out; None if there are no keys."""
    if not config.dkim:
        return None
    from postroika.signing.ring import KeyRing  # loads much, and not everybody signs
    from postroika.signing.signer import Signer, threads_for

    ring = KeyRing(config)
    ring.reload()  # a key that broke since the start defers its mail, and stops nothing else
    # A thread that signs lets go of the interpreter for each signature, and must not wait long to get it back.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    return Signer(config, ring, store, threads=threads_for(config.server.workers))


def make_sts_policies(config: Config, resolver: Resolver, shard: int, workers: int) -> StsPolicies | None:
    """The policies of domains; None if they are not to be heeded, or no mail goes by MX.

    Raises:
        ConfigError: the authorities for policy hosts cannot be used.
    """
    if not (config.sts.enabled and goes_by_mx(config.route)):
        return None
    from postroika.sts.fetch import Fetcher  # loads an HTTP client
    from postroika.sts.policies import StsPolicies
    from postroika.sts.store import DIRECTORY, Part, PolicyStore

    store = PolicyStore(Path(config.server.spool) / DIRECTORY)
    # A shard beyond the configured workers is only delivered from until it is empty.
    part = Part(shard, workers) if shard < workers else None
    return StsPolicies(config.sts, resolver, Fetcher(config.sts, config.dns, resolver), store, part)


def make_reports(config: Config, shard: int, resolver: Resolver, sts: StsPolicies | None) -> Reports | None:
    """Counts sessions for other domains, and tells these; None if they are not to be told."""
    if not config.tlsrpt.contact:
        return None
    from postroika.tlsrpt.reports import Reports  # few want it

    reports = Reports(config, shard, resolver)
    if sts is not None:
        reports.recorder.policy_failures = sts.failure
    return reports
