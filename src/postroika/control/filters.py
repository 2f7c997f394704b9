"""Which mail an operator means.

Promise: listing and cancelling read the same filters in the same way, so that what was shown is what is taken back.
An address is compared without regard to case (operators type from memory; a local part that differs from another in
case alone is not met in practice); "@domain" means all addresses there; "<>" is the null sender.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from postroika.mail.address import canonical_domain, routing_domain, split_address
from postroika.mail.envelope import Batch

NULL_SENDER = "<>"

_MAX_NAME = 100  # characters; LMDB's keys have at most 511 octets, and no domain with longer labels is ever queued


class Wanted(Protocol):
    """The filters; "" where there is none. All that are given must match. `wire.Cancel` is one of these."""

    @property
    def destination(self) -> str:
        """A routing domain."""

    @property
    def sender(self) -> str:
        """An address, "@domain", or "<>"."""

    @property
    def recipient(self) -> str:
        """An address or "@domain"; any one of the open recipients."""

    @property
    def tenant(self) -> str:
        """The whole name."""

    @property
    def campaign(self) -> str:
        """The whole name."""


def matcher(wanted: Wanted) -> Callable[[Batch], bool]:
    """A test for batches; all match if there is no filter."""
    tests: list[Callable[[Batch], bool]] = []
    if tenant := wanted.tenant:
        tests.append(lambda batch: batch.envelope.tenant == tenant)
    if campaign := wanted.campaign:
        tests.append(lambda batch: batch.envelope.campaign == campaign)
    if wanted.destination:
        destination = destination_name(wanted.destination)
        tests.append(lambda batch: batch.destination == destination)
    if wanted.sender:
        is_sender = address_test(wanted.sender)
        tests.append(lambda batch: is_sender(batch.envelope.reverse_path))
    if wanted.recipient:
        is_recipient = address_test(wanted.recipient)
        tests.append(lambda batch: any(is_recipient(recipient.address) for recipient in batch.recipients))
    if len(tests) == 1:
        return tests[0]
    return lambda batch: all(test(batch) for test in tests)


def address_test(wanted: str) -> Callable[[str], bool]:
    """A test for addresses; see the module for what `wanted` may be."""
    if wanted == NULL_SENDER:
        return lambda address: not address
    local, domain = split_address(wanted.removeprefix("<").removesuffix(">"))
    if not local and domain:
        domain = destination_name(domain)
        return lambda address: routing_domain(address) == domain
    exact = same_address(wanted)
    return lambda address: same_address(address) == exact


def same_address(address: str) -> str:
    """A form that is the same for all spellings of an address: without brackets, in lower case, with A-labels."""
    local, domain = split_address(address.removeprefix("<").removesuffix(">"))
    return f"{local.lower()}@{destination_name(domain)}" if domain else local.lower()


def destination_name(text: str) -> str:
    """A domain as destinations are named; what can be none is left as it is, in a form that a key can hold."""
    try:
        return canonical_domain(text)
    except ValueError:
        return text.lower().encode(errors="replace").decode()[:_MAX_NAME]
