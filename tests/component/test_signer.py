"""The signer: what delivery is told, and how many jobs go through its threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.errors import SigningError, SpoolFormatError
from postroika.mail.ids import id_text
from postroika.metrics import SIGNATURES, SIGNED_MESSAGES, SIGNING_FAILURES
from postroika.signing.hands import Hands
from postroika.signing.signer import threads_for
from tests.component.outbound_fakes import loaded
from tests.component.signing_world import HEADER, OTHER, PATIENT_S, RSA, World, message


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.signer.close()


async def test_fields_are_made_once_for_all_batches_of_a_message(world: World) -> None:
    before = SIGNED_MESSAGES.value, SIGNATURES.value
    batch = message(1)
    assert world.signer.signature(batch) is None
    assert world.signer.signature(batch) is None
    fields = await world.signed(batch)
    assert world.signer.signature(message(1)) is fields
    assert world.verdicts(fields + HEADER + b"Hello\r\n") == [True, True]
    assert (SIGNED_MESSAGES.value - before[0], SIGNATURES.value - before[1]) == (1, 2)


async def test_who_has_no_key_goes_unsigned(world: World) -> None:
    assert await world.signed(loaded(1, body=b"From: a@other.test\r\n\r\nx\r\n")) == b""
    assert await world.signed(loaded(2, body=b"Subject: no author\r\n\r\nx\r\n")) == b""
    assert await world.signed(loaded(3, body=b"no header\r\n")) == b""


async def test_what_a_stranger_has_brought_is_not_signed(world: World) -> None:
    """He writes into From what he likes, and may send to [relay] domains."""
    world.files["r1"].unlink()
    await world.signer.reload()  # a key that cannot be used is nothing to him either
    batch = loaded(1, body=HEADER + b"wire money\r\n", ours=False, client_ip="203.0.113.66")
    world.signer.prepare(batch)
    assert world.signer.signature(batch) == b""
    assert await world.signed(batch) == b""


async def test_many_wait_for_the_same_message_and_for_others(world: World) -> None:
    found: dict[tuple[int, int], bytes] = {}

    async def ask(number: int, lane: int) -> None:
        found[number, lane] = await world.signed(message(number, b"%d\r\n" % number))

    async with trio.open_nursery() as nursery:
        for number in range(60):
            for lane in range(3):
                nursery.start_soon(ask, number, lane)
    assert len(found) == 180
    assert len(set(found.values())) == 60
    assert world.verdicts(found[59, 2] + HEADER + b"59\r\n") == [True, True]


async def test_what_was_prepared_is_there_soon(world: World) -> None:
    batch = message(1)
    world.signer.prepare(batch)
    world.signer.prepare(batch)
    await world.signer.wait(batch)
    assert world.signer.signature(batch)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 16, 60, 64 * 1024])
async def test_body_is_read_from_the_spool_in_pieces(world: World, chunk_bytes: int) -> None:
    whole = HEADER + b"Hello  you \r\n\r\n \r\n" * 4
    world.bodies.chunks[1] = [whole[at : at + chunk_bytes] for at in range(0, len(whole), chunk_bytes)]
    batch = loaded(1, body=None, size_bytes=len(whole), chunks=len(world.bodies.chunks[1]))
    fields = await world.signed(batch)
    assert world.bodies.reads == [(1, number) for number in range(batch.batch.envelope.chunks)]
    assert world.verdicts(fields + whole) == [True, True]


async def test_small_messages_do_not_wait_behind_a_large_one(world: World) -> None:
    in_large, go_on = threading.Event(), threading.Event()
    whole = HEADER + b"x" * 70 + b"\r\n"

    def read_body(number: int, chunk: int, count: int) -> bytes:
        if chunk >= 4:
            in_large.set()
            assert go_on.wait(PATIENT_S)
        return whole if chunk == 0 else (b"x" * 70 + b"\r\n") * count

    world.bodies.read_body = read_body  # type: ignore[method-assign]
    large = loaded(1, body=None, size_bytes=20_000_000, chunks=300)
    assert world.signer.signature(large) is None
    await trio.to_thread.run_sync(in_large.wait, PATIENT_S)
    for number in range(2, 50):
        assert await world.signed(message(number))
    assert world.signer.signature(large) is None
    go_on.set()
    assert await world.signed(large)


async def test_loop_goes_on_while_messages_are_signed(world: World) -> None:
    batches = [message(number) for number in range(200)]
    for batch in batches:
        world.signer.prepare(batch)
    turns = 0
    while world.signer.signature(batches[-1]) is None:
        turns += 1
        await trio.lowlevel.checkpoint()
    assert turns > 20


async def test_broken_key_raises_until_it_is_mended(world: World, caplog: pytest.LogCaptureFixture) -> None:
    before = SIGNING_FAILURES.value
    fields = await world.signed(message(1))
    world.files["r1"].unlink()
    await world.signer.reload()
    for _ in range(2):
        with pytest.raises(SigningError, match=r"^the key r1 of shop\.test cannot be used$"):
            await world.signed(message(1))
    assert SIGNING_FAILURES.value - before == 2
    told = f"message {id_text(1)} is not signed, and deferred: the key r1 of shop.test cannot be used"
    assert caplog.messages[-1] == told  # by the id that `postroika queue show` knows
    assert "rsa.pem: cannot read it: No such file or directory" in caplog.text
    world.files["r1"].write_bytes(RSA)
    await world.signer.reload()
    assert (await world.signed(message(1))).count(b"DKIM-Signature:") == fields.count(b"DKIM-Signature:") == 2


async def test_rotated_key_signs_at_once_what_was_signed_before(world: World) -> None:
    whole = HEADER + b"Hello\r\n"
    old = await world.signed(message(1))
    world.files["e1"].write_bytes(OTHER)
    await world.signer.reload()
    new = await world.signed(message(1))
    assert world.verdicts(new + whole) == [True, True]
    assert world.verdicts(old + whole) == [True, False]


async def test_unreadable_message_is_not_signed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def read_body(number: int, chunk: int, count: int) -> bytes:
        raise SpoolFormatError("chunk 0 is missing")

    world.bodies.read_body = read_body  # type: ignore[method-assign]
    with pytest.raises(SigningError, match=r"^the message could not be read$"):
        await world.signed(loaded(1, body=None))
    assert "chunk 0 is missing" in caplog.text


async def test_bug_in_signing_defers_the_message_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def read_body(number: int, chunk: int, count: int) -> bytes:
        raise ZeroDivisionError

    world.bodies.read_body = read_body  # type: ignore[method-assign]
    with pytest.raises(SigningError, match=r"^an error in the signer$"):
        await world.signed(loaded(1, body=None))
    assert "ZeroDivisionError" in caplog.text
    assert await world.signed(message(2))


async def test_message_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, timeout_s=0.05)
    go_on = threading.Event()

    def read_body(number: int, chunk: int, count: int) -> bytes:
        assert go_on.wait(PATIENT_S)
        return HEADER

    world.bodies.read_body = read_body  # type: ignore[method-assign]
    slow = loaded(1, body=None)
    with pytest.raises(SigningError, match=r"^the signatures were not made in time$"):
        await world.signed(slow)
    go_on.set()
    with trio.fail_after(PATIENT_S):
        while True:
            try:
                if await world.signed(slow):
                    break
            except SigningError:
                continue
    world.signer.close()


async def test_signatures_are_kept_for_a_while_and_so_many_of_them(tmp_path: Path) -> None:
    world = World(tmp_path, cached_messages=3)
    for number in range(5):
        await world.signed(message(number))
    assert [world.signer.signature(message(number)) is not None for number in (4, 3, 2)] == [True, True, True]
    assert world.signer.signature(message(1)) is None
    kept = await world.signed(message(4))
    world.now_s = 899.0
    assert world.signer.signature(message(4)) is kept
    world.now_s = 1900.0
    assert world.signer.signature(message(4)) is None
    world.signer.close()


async def test_interrupted_wait_leaves_nothing_behind(world: World) -> None:
    batch = message(1)
    world.signer.prepare(batch)
    with trio.CancelScope() as scope:
        scope.cancel()
        await world.signer.wait(batch)
    assert await world.signed(batch)


async def test_results_of_many_jobs_come_together() -> None:
    came: list[list[tuple[int, int]]] = []
    all_came = trio.Event()
    begin = threading.Event()

    def work(job: int) -> int:
        assert begin.wait(PATIENT_S)
        return job * job

    def done(results: list[tuple[int, int]]) -> None:
        came.append(results)
        if sum(map(len, came)) == 100:
            all_came.set()

    hands = Hands(1, work, done, "test")
    for job in range(100):
        hands.give(job)
    begin.set()
    with trio.fail_after(PATIENT_S):
        await all_came.wait()
    assert [result for results in came for result in results] == [(job, job * job) for job in range(100)]
    assert len(came) < 50
    hands.close(PATIENT_S)


async def test_what_is_wanted_goes_before_what_was_given_ahead() -> None:
    began: list[int] = []
    all_came = trio.Event()
    working, go_on = threading.Event(), threading.Event()

    def work(job: int) -> None:
        working.set()
        assert go_on.wait(PATIENT_S)
        began.append(job)

    def done(results: list[tuple[int, None]]) -> None:
        if results[-1][0] == 4:
            all_came.set()

    hands: Hands[int, None] = Hands(1, work, done, "test-ahead")
    hands.give(0)
    await trio.to_thread.run_sync(working.wait, PATIENT_S)
    for job in (1, 2, 3, 4):
        hands.give(job, ahead=True)
    hands.give(5)
    assert hands.ahead == 4
    hands.hurry(3)
    hands.hurry(5)
    hands.hurry(0)  # is at it
    assert hands.ahead == 3
    go_on.set()
    with trio.fail_after(PATIENT_S):
        await all_came.wait()
    assert began == [0, 5, 3, 1, 2, 4]
    assert hands.ahead == 0
    hands.close(PATIENT_S)


async def test_threads_end_with_the_signer_and_leave_the_rest() -> None:
    working, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def work(job: int) -> None:
        working.set()
        assert go_on.wait(PATIENT_S)
        done.append(job)

    hands: Hands[int, None] = Hands(2, work, lambda results: None, "test-end")
    for job in range(50):
        hands.give(job)
    await trio.to_thread.run_sync(working.wait, PATIENT_S)
    threading.Timer(0.05, go_on.set).start()
    await trio.to_thread.run_sync(hands.close, PATIENT_S)
    assert len(done) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test-end")]


def test_all_cores_can_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert [threads_for(workers) for workers in (0, 1, 3, 8, 20)] == [2, 9, 3, 2, 2]
