"""What senders are told by the queue: mail that failed, is late, expired, or arrived."""

from pathlib import Path

import pytest

from postroika.mail.envelope import Envelope, Notify, Recipient, Stream
from postroika.mail.ids import id_text
from postroika.outcome.event_record import EventReply
from postroika.spool.reader import Loaded
from postroika.spool.schema import batch_key
from tests.component.world import GREYLISTED, NO_SUCH_USER, OK, Clock, world


async def test_a_refused_recipient_gets_a_notice_for_its_sender(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        w.hops.verdict = lambda destination, recipient: NO_SUCH_USER if recipient.address.startswith("no") else OK
        await w.accept("no1@one.test", "yes@one.test", "no2@one.test")
        await w.settle_down()
        assert sorted(w.happened("bounced", "delivered")) == [
            ("bounced", "no1@one.test"), ("bounced", "no2@one.test"),
            ("delivered", "sender@news.test"), ("delivered", "yes@one.test"),
        ]  # fmt: skip
        notices = [body for name, recipient, body in w.hops.delivered if recipient == "sender@news.test"]
        assert len(notices) == 1
        assert b"Final-Recipient: rfc822; no1@one.test" in notices[0]
        assert b"Final-Recipient: rfc822; no2@one.test" in notices[0]
        assert b"Diagnostic-Code: smtp; 550 5.1.1 no such user" in notices[0]
        assert w.queued() == []


@pytest.mark.parametrize(
    ("sender", "notify"), [("", Notify.NONE), ("sender@news.test", Notify.NEVER), ("sender@news.test", Notify.SUCCESS)]
)
async def test_nobody_is_told_who_does_not_want_to_know(
    tmp_path: Path, mock_clock: object, sender: str, notify: Notify
) -> None:
    async with world(tmp_path) as w:
        w.hops.verdict = lambda destination, recipient: NO_SUCH_USER
        await w.accept(Recipient("no@one.test", int(notify)), sender=sender)
        await w.settle_down()
        assert w.happened() == [("received", "no@one.test"), ("bounced", "no@one.test")]
        assert w.queued() == []


async def test_a_notice_is_a_message_of_the_same_class_from_the_null_sender(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5000,)) as w:
        w.hops.verdict = lambda destination, recipient: NO_SUCH_USER if destination == "one.test" else GREYLISTED
        more = {"tenant": "shop", "stream": Stream.BROADCAST, "campaign": "may"}
        message = await w.accept("no@one.test", **more)
        await w.settle_down()
        assert w.queued() == [("news.test", ("sender@news.test",))]
        (envelope,) = w.envelopes()
        assert envelope == Envelope(
            message=envelope.message, reverse_path="", received_at=w.clock.at, size_bytes=envelope.size_bytes, chunks=1,
            tenant="shop", stream=Stream.BROADCAST, campaign="may", ours=True,
        )  # fmt: skip
        assert message < envelope.message
        facts = [(e.type, e.message, e.sender, e.tenant, e.stream, e.campaign) for e in w.logged()]
        old, new = (id_text(message), "sender@news.test"), (id_text(envelope.message), "")
        assert facts == [
            (kind, *which, "shop", "broadcast", "may")
            for kind, which in (("received", old), ("bounced", old), ("received", new), ("deferred", new))
        ]


async def test_a_notice_that_cannot_be_delivered_is_dropped_with_a_record(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        w.hops.verdict = lambda destination, recipient: NO_SUCH_USER
        await w.accept("no@one.test")
        await w.settle_down()
        assert w.happened("bounced") == [("bounced", "no@one.test"), ("bounced", "sender@news.test")]
        assert w.queued() == []


async def test_an_old_message_expires_with_a_notice(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, janitor=True, delays_s=(50,), expire_after_s=1000, delay_dsn_after_s=0) as w:
        w.hops.verdict = lambda destination, recipient: GREYLISTED if destination == "slow.test" else OK
        await w.accept("a@slow.test")
        await w.pass_time(900)
        assert w.happened("expired") == []
        await w.pass_time(101)
        assert w.happened("expired") == [("expired", "a@slow.test")]
        ((_, recipient, notice),) = w.hops.delivered
        assert recipient == "sender@news.test"
        assert b"Action: failed" in notice
        assert b"451 4.7.1 come back later" in notice
        assert w.queued() == []


async def test_a_last_attempt_that_is_put_off_is_the_end(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(1001,), expire_after_s=1000, delay_dsn_after_s=0) as w:
        w.hops.verdict = lambda destination, recipient: GREYLISTED if destination == "slow.test" else OK
        await w.accept("a@slow.test")
        await w.settle_down()
        await w.pass_time(1002)
        assert w.hops.attempts == ["slow.test", "slow.test", "news.test"]
        assert w.happened("deferred", "expired", "delivered") == [
            ("deferred", "a@slow.test"), ("expired", "a@slow.test"), ("delivered", "sender@news.test")
        ]  # fmt: skip
        (expired,) = (event for event in w.logged() if event.type == "expired")
        assert (expired.attempt, expired.next_attempt_at) == (2, None)
        assert expired.reply == EventReply(451, "4.7.1", "come back later", "rcpt")
        ((_, _, notice),) = w.hops.delivered
        assert b"\r\nAction: failed\r\nStatus: 4.7.1\r\n" in notice
        assert w.queued() == []


async def test_mail_to_a_dead_destination_expires_though_it_is_not_tried(tmp_path: Path, mock_clock: object) -> None:

    settings = {"down_delays_s": (100_000,), "expire_after_s": 1000, "delay_dsn_after_s": 0}
    async with world(tmp_path, janitor=True, **settings) as w:  # type: ignore[arg-type]
        w.hops.unreachable.add("dead.test")
        for number in range(5):
            await w.accept(f"r{number}@dead.test", sender="")
        await w.settle_down()
        w.clock.at += 1001
        await w.sleep(6)
        await w.settle_down()
        assert sorted(w.happened("expired")) == [("expired", f"r{n}@dead.test") for n in range(5)]
        assert w.queued() == []


async def test_a_sender_is_told_once_that_mail_is_late(tmp_path: Path, mock_clock: object) -> None:

    clock = Clock()
    settings = {"delays_s": (100,), "delay_dsn_after_s": 500, "expire_after_s": 10_000}
    async with world(tmp_path, clock, janitor=True, **settings) as w:  # type: ignore[arg-type]
        w.hops.verdict = lambda destination, recipient: GREYLISTED if destination == "slow.test" else OK
        await w.accept("a@slow.test", Recipient("b@slow.test", int(Notify.FAILURE)))
        for _ in range(10):
            w.clock.at += 101
            await w.sleep(6)
        await w.settle_down()
        notices = [body for _, recipient, body in w.hops.delivered if recipient == "sender@news.test"]
        assert len(notices) == 1
        assert b"Action: delayed" in notices[0]
        assert b"a@slow.test" in notices[0]
        assert b"b@slow.test" not in notices[0]
    async with world(tmp_path, clock, janitor=True, **settings) as w:  # type: ignore[arg-type]
        w.hops.verdict = lambda destination, recipient: GREYLISTED
        await w.sleep(20)
        await w.settle_down()
        assert w.hops.delivered == []


async def test_mail_that_is_late_between_two_attempts_is_told_of_and_not_looked_at_again(
    tmp_path: Path, mock_clock: object
) -> None:
    clock = Clock()
    settings = {"delays_s": (5000,), "delay_dsn_after_s": 500, "expire_after_s": 10_000}
    async with world(tmp_path, clock, janitor=True, **settings) as w:  # type: ignore[arg-type]
        w.hops.verdict = lambda destination, recipient: GREYLISTED if destination == "slow.test" else OK
        message = await w.accept("a@slow.test")
        await w.settle_down()
        w.clock.at += 501
        await w.sleep(6)
        await w.settle_down()
        assert w.hops.attempts == ["slow.test", "news.test"]
        ((_, recipient, notice),) = w.hops.delivered
        assert recipient == "sender@news.test"
        assert b"\r\nAction: delayed\r\n" in notice
        assert w.store.meta_number("late_checked") == message
    async with world(tmp_path, clock, janitor=True, **settings) as w:  # type: ignore[arg-type]
        looked_at: list[bytes] = []
        real = w.store.batches_from

        def batches_from(start: bytes, limit: int) -> list[Loaded]:
            looked_at.append(start)
            return real(start, limit)

        w.store.batches_from = batches_from  # type: ignore[method-assign]
        await w.sleep(6)
        assert set(looked_at) == {b"", batch_key(message + 1, 0)}  # for expiry, and for lateness
        assert w.hops.delivered == []


async def test_success_is_reported_if_the_next_hop_cannot(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        original = w.hops._deliver

        async def deliver(lane: object) -> None:
            real_report = lane.report  # type: ignore[attr-defined]

            class Without:
                destination = lane.destination  # type: ignore[attr-defined]
                take = lane.take  # type: ignore[attr-defined]
                connected = lane.connected  # type: ignore[attr-defined]

                def report(self, loaded: object, attempt: object) -> None:
                    import msgspec

                    results = tuple(
                        msgspec.structs.replace(r, relayed_without_dsn=True)
                        for r in attempt.results  # type: ignore[attr-defined]
                    )
                    real_report(loaded, msgspec.structs.replace(attempt, results=results))

            await original(Without())  # type: ignore[arg-type]

        w.deliver = deliver  # type: ignore[assignment]
        await w.accept(Recipient("a@one.test", int(Notify.SUCCESS)), Recipient("b@one.test"))
        await w.settle_down()
        notices = [body for _, recipient, body in w.hops.delivered if recipient == "sender@news.test"]
        assert len(notices) == 1
        assert b"Action: relayed" in notices[0]
        assert b"b@one.test" not in notices[0]
