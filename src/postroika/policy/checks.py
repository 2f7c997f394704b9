"""Puts the checks of `[policy]` into a pipeline, in the order that the operator has said.

Promise: a check that nothing is configured for is not asked, so that it costs nothing. Accounts and [relay] are no part
of this: they come first, and cannot be left out.

Clients in trusted networks ([relay] networks), or in `exempt` ones, pass everything but the hooks; those who have
logged in pass what comes after.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from postroika.config import Config
from postroika.policy.blocklists import Blocklists
from postroika.policy.client_limits import ClientLimits
from postroika.policy.names import Names
from postroika.policy.networks import Networks
from postroika.policy.null_sender import NullSender
from postroika.policy.own_hooks import OwnHooks
from postroika.policy.pipeline import STAGES, Client, Hook, Pipeline, Stage
from postroika.policy.sender_domain import SenderDomain

_HOOKS = "hooks"


class Checks:
    """All checks of a worker.

    Args:
        config: with its share of the limits.
        names: whom to ask about names.
        now: of a clock that never goes back.
        list_names: whom to ask about block lists, so that no flood of other names is in their way; None for `names`.

    Attributes:
        pipeline: what judges clients.
        hooks: the user's own; None if there are none.
    """

    def __init__(
        self,
        config: Config,
        names: Names,
        now: Callable[[], float] = trio.current_time,
        *,
        list_names: Names | None = None,
    ) -> None:
        settings = config.policy
        self._orders: dict[Stage, tuple[str, ...]] = {
            "connect": settings.connect,
            "helo": settings.ehlo,
            "mail": settings.mail,
            "rcpt": settings.rcpt,
            "data": settings.data,
            "message": settings.message,
        }
        self._exempt = Networks(settings.exempt)
        limits = ClientLimits(settings, now)
        self._built_in = _built_in(config, limits, names, list_names or names, now)
        timeout_s = config.limits.policy_timeout_s
        self._for_exempt = Pipeline(timeout_s)
        self.pipeline = Pipeline(timeout_s, parted=[limits.parted], others=[(self._is_exempt, self._for_exempt)])
        self.hooks = OwnHooks(settings.hooks, self._arrange) if settings.hooks else None
        self._arrange()

    def _arrange(self) -> None:
        """Say who is asked: anew when the hooks have changed."""
        for stage in STAGES:
            own = () if self.hooks is None else self.hooks.at(stage)
            asked: list[Hook] = []
            for check in self._orders[stage]:
                if check == _HOOKS:
                    asked += own
                elif (hook := self._built_in.get((check, stage))) is not None:
                    asked.append(hook)
            self.pipeline.ask(stage, asked)
            self._for_exempt.ask(stage, own if _HOOKS in self._orders[stage] else ())

    def _is_exempt(self, client: Client) -> bool:
        return client.trusted or (client.known and client.ip in self._exempt)


def _built_in(
    config: Config, limits: ClientLimits, names: Names, list_names: Names, now: Callable[[], float]
) -> dict[tuple[str, Stage], Hook]:
    """The checks that have something to do, by name and stage."""
    settings = config.policy
    found: dict[tuple[str, Stage], Hook] = {}
    if limits.limits("connections"):
        found["rates", "connect"] = limits.connect
    if limits.limits("messages"):
        found["rates", "mail"] = limits.mail
    if limits.limits("recipients"):
        found["rates", "rcpt"] = limits.rcpt
    null_sender = NullSender(settings.null_sender_recipients, settings.null_sender_messages_per_minute, now)
    if settings.null_sender_messages_per_minute:
        found["null_sender", "mail"] = null_sender.mail
    if settings.null_sender_recipients:
        found["null_sender", "rcpt"] = null_sender.rcpt
    if settings.sender_domain_resolves:
        found["sender_domain", "mail"] = SenderDomain(names)
    if config.blocklist:
        lists = Blocklists(config.blocklist, list_names, now)
        stages: tuple[Stage, ...] = ("connect", "helo", "mail", "rcpt")
        found |= {("blocklists", stage): lists for stage in stages}
    return found
