"""The signer looks ahead: what is made before anybody asks for it, and what becomes of that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from postroika.errors import SpoolFormatError
from postroika.metrics import SIGNED_MESSAGES, SIGNING_FAILURES
from postroika.signing.key import Key
from postroika.spool.reader import Loaded
from tests.component.outbound_fakes import loaded
from tests.component.signing_world import HEADER, OTHER, PATIENT_S, World, message


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.signer.close()


async def test_what_was_prepared_ahead_is_made_once_and_found(world: World) -> None:
    before = SIGNED_MESSAGES.value
    batches = [message(number) for number in range(1, 200)]
    for batch in batches:
        world.signer.prepare(batch, ahead=True)
    for batch in reversed(batches):
        world.signer.prepare(batch, ahead=True)
        fields = await world.signed(batch)
        assert world.verdicts(fields + HEADER + b"Hello\r\n") == [True, True]
    assert SIGNED_MESSAGES.value - before == len(batches)


async def looked_ahead_at(world: World, *batches: Loaded) -> None:
    """Until the threads have done what was prepared of these."""
    for batch in batches:
        world.signer.prepare(batch, ahead=True)
    with trio.fail_after(PATIENT_S):
        for batch in batches:
            await world.signer.wait(batch)


async def test_failure_of_what_was_only_looked_ahead_at_is_nobodys(world: World) -> None:
    """When its turn comes, minutes later, all may be well again."""
    before = SIGNING_FAILURES.value
    batch = loaded(1, body=None)
    mended = world.bodies.read_body

    def read_body(number: int, chunk: int, count: int) -> bytes:
        raise SpoolFormatError("chunk 0 is missing")

    world.bodies.read_body = read_body  # type: ignore[method-assign]
    await looked_ahead_at(world, batch)
    assert SIGNING_FAILURES.value == before
    world.bodies.read_body = mended  # type: ignore[method-assign]
    world.bodies.chunks[1] = [HEADER]
    world.signer.prepare(batch)
    assert await world.signed(batch)


async def test_nothing_of_the_keys_before_is_left_when_they_are_read_again(world: World) -> None:
    """Neither what was signed with them nor what failed, though it comes back from the threads only afterwards."""
    working, go_on = threading.Event(), threading.Event()
    whole = HEADER + b"x\r\n"

    class Slow:
        """A key that is at work while another takes its place."""

        def __init__(self, key: Key) -> None:
            self.key = key

        def sign(self, digest: bytes) -> bytes:
            working.set()
            assert go_on.wait(PATIENT_S)
            return self.key.sign(digest)

    for signature in world.ring:
        if signature.entry.selector == "e1":
            assert signature.key is not None
            signature.key = Slow(signature.key)  # type: ignore[assignment]
    batch = message(1, b"x\r\n")
    world.signer.prepare(batch)
    await trio.to_thread.run_sync(working.wait, PATIENT_S)
    world.files["e1"].write_bytes(OTHER)
    await world.signer.reload()
    go_on.set()
    fields = await world.signed(batch)
    assert world.verdicts(fields + whole) == [True, True]


async def test_looking_ahead_puts_nobody_elses_signatures_out_of_memory(tmp_path: Path) -> None:
    world = World(tmp_path, cached_messages=8)
    await world.signed(message(100))
    await looked_ahead_at(world, *map(message, range(20)))
    assert world.signer.signature(message(100)) is not None
    found = [world.signer.signature(message(number)) is not None for number in range(4)]
    assert found == [True] * 4
    await looked_ahead_at(world, *map(message, range(20, 24)))  # there is room, now that those are used
    assert [world.signer.signature(message(number)) is not None for number in range(20, 24)] == [True] * 4
    world.signer.close()


async def test_looking_ahead_goes_on_though_what_it_found_is_never_used(tmp_path: Path) -> None:
    """The destination may be down, or the mail cancelled."""
    world = World(tmp_path, cached_messages=8)
    await looked_ahead_at(world, *map(message, range(4)))
    for number in range(100, 108):
        await world.signed(message(number))
    await looked_ahead_at(world, message(50))
    assert world.signer.signature(message(50)) is not None
    await world.signer.reload()
    await looked_ahead_at(world, *map(message, range(4)))
    assert [world.signer.signature(message(number)) is not None for number in range(4)] == [True] * 4
    world.signer.close()
