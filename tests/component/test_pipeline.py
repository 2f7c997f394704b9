"""policy.pipeline: ordered hooks, first verdict, a deadline."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postroika import metrics
from postroika.mail.reply import Reply, reply
from postroika.policy.pipeline import STAGES, TOO_SLOW, Client, Hook, Pipeline, Stage
from postroika.pump import Interrupted, Pump, current

CLIENT = Client("192.0.2.1")
NO = reply(550, "5.7.1", "no")
LATER = reply(450, "4.7.1", "later")
YES = reply(250, "2.1.5", "yes, of course")


def says(verdict: Reply | None, asked: list[str], name: str) -> Hook:
    def hook(client: Client, event: object) -> Reply | None:
        asked.append(name)
        return verdict

    return hook


def thinks(verdict: Reply | None, asked: list[str], name: str, seconds: float = 1.0) -> Hook:
    async def hook(client: Client, event: object) -> Reply | None:
        asked.append(name)
        await trio.sleep(seconds)
        return verdict

    return hook


@pytest.mark.parametrize("first", [NO, LATER, YES])
async def test_first_verdict_wins_and_later_hooks_are_not_asked(first: Reply) -> None:
    asked: list[str] = []
    pipeline = Pipeline(30, rcpt=[says(None, asked, "a"), says(first, asked, "b"), says(NO, asked, "c")])
    assert await pipeline.judge("rcpt", CLIENT, None) == first
    assert asked == ["a", "b"]


@pytest.mark.parametrize("stage", STAGES)
async def test_nobody_having_an_opinion_accepts(stage: str) -> None:
    asked: list[str] = []
    hooks = {stage: [says(None, asked, "a")]}
    assert await Pipeline(30, **hooks).judge(stage, CLIENT, None) is None  # type: ignore[arg-type]
    assert asked == ["a"]
    assert await Pipeline(30).judge(stage, CLIENT, None) is None  # type: ignore[arg-type]


async def test_synchronous_hooks_cost_no_task_switch() -> None:
    pipeline = Pipeline(30, mail=[says(None, [], "a"), says(NO, [], "b")])
    with trio.testing.assert_no_checkpoints():
        assert await pipeline.judge("mail", CLIENT, None) == NO


async def test_kinds_of_hooks_are_asked_in_order(autojump_clock: trio.testing.MockClock) -> None:
    asked: list[str] = []
    hooks = [
        says(None, asked, "a"), thinks(None, asked, "b"), says(None, asked, "c"), thinks(NO, asked, "d"), says(YES,
        asked, "e"),
    ]  # fmt: skip
    assert await Pipeline(30, data=hooks).judge("data", CLIENT, None) == NO
    assert asked == ["a", "b", "c", "d"]
    assert trio.current_time() == pytest.approx(2)


async def test_deadline_is_for_all_hooks_together(autojump_clock: trio.testing.MockClock) -> None:
    asked: list[str] = []
    pipeline = Pipeline(30, mail=[thinks(None, asked, name, 12) for name in "abc"])
    assert await pipeline.judge("mail", CLIENT, None) == TOO_SLOW
    assert (asked, trio.current_time()) == (["a", "b", "c"], 30)


async def test_strand_does_not_wait_for_what_heeds_no_cancellation(
    pump: Pump, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []
    ended: list[float] = []

    async def hook(client: Client, event: object) -> Reply:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        ended.append(trio.current_time())
        return NO

    before = metrics.POLICY_TIMEOUTS.value
    pump.spawn(judged(Pipeline(30, rcpt=[hook]), told, "rcpt"))
    await trio.sleep(31)
    assert (told, ended) == ([TOO_SLOW], [])
    assert metrics.POLICY_TIMEOUTS.value == before + 1
    assert caplog.messages == ["the checks at rcpt of 192.0.2.1 took longer than 30 s"]
    await trio.sleep(70)
    assert (told, ended) == ([TOO_SLOW], [100.0])


async def test_hook_that_holds_up_everybody_is_late_as_well(pump: Pump, mock_clock: trio.testing.MockClock) -> None:
    told: list[object] = []

    async def hook(client: Client, event: object) -> Reply:
        await trio.lowlevel.checkpoint()
        mock_clock.jump(31)
        return YES

    pump.spawn(judged(Pipeline(30, mail=[hook]), told))
    await trio.testing.wait_all_tasks_blocked()
    assert told == [TOO_SLOW]


async def test_deadline_of_a_strand_rests_while_it_is_judged(
    pump: Pump, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[object] = []

    async def strand() -> None:
        current().deadline = trio.current_time() + 5
        await judged(Pipeline(30, mail=[thinks(NO, [], "a", 20)]), told)
        told.append(current().deadline)

    pump.spawn(strand())
    await trio.sleep(25)
    assert told == [NO, 5.0]


def test_others_have_pipelines_of_their_own() -> None:
    friends, strangers = Pipeline(30), Pipeline(30)
    pipeline = Pipeline(
        30,
        others=[(lambda client: client.trusted, friends), (lambda client: client.ip == "192.0.2.9", strangers)],
    )
    assert pipeline.of(CLIENT) is pipeline
    assert pipeline.of(Client("192.0.2.9")) is strangers
    assert pipeline.of(Client("192.0.2.9", trusted=True)) is friends


async def test_who_is_asked_can_change() -> None:
    pipeline = Pipeline(30, mail=[says(NO, [], "a")])
    pipeline.ask("mail", [says(LATER, [], "b")])
    assert await pipeline.judge("mail", CLIENT, None) == LATER
    pipeline.ask("mail", [])
    assert (pipeline.judges("mail"), await pipeline.judge("mail", CLIENT, None)) == (False, None)


def test_those_who_want_to_know_are_told_of_the_end() -> None:
    gone: list[Client] = []
    Pipeline(30, parted=[gone.append]).part(CLIENT)
    assert gone == [CLIENT]


async def judged(pipeline: Pipeline, seen: list[object], stage: Stage = "mail") -> None:
    """A strand that asks, as sessions do."""
    try:
        seen.append(await pipeline.judge(stage, CLIENT, None))
    except (ZeroDivisionError, Interrupted) as error:
        seen.append(type(error))


async def test_a_strand_is_told_what_hooks_of_both_kinds_say(
    pump: Pump, autojump_clock: trio.testing.MockClock
) -> None:
    asked: list[str] = []
    told: list[object] = []
    late: list[object] = []
    hooks = [says(None, asked, "a"), thinks(None, asked, "b"), says(NO, asked, "c")]
    pump.spawn(judged(Pipeline(30, mail=hooks), told))
    pump.spawn(judged(Pipeline(30, mail=[thinks(None, asked, "slow", 31)]), late))
    await trio.sleep(29)
    assert (told, late) == ([NO], [])
    await trio.sleep(2)
    assert (told, late) == ([NO], [TOO_SLOW])
    assert [name for name in asked if name != "slow"] == ["a", "b", "c"]


async def test_hook_of_a_strand_that_is_interrupted_is_cancelled(pump: Pump) -> None:
    seen: list[object] = []

    async def hook(client: Client, event: object) -> None:
        try:
            await trio.sleep_forever()
        finally:
            seen.append("hook")

    strand = pump.spawn(judged(Pipeline(30, mail=[hook]), seen))
    await trio.testing.wait_all_tasks_blocked()
    strand.interrupt()
    await trio.testing.wait_all_tasks_blocked()
    assert seen == [Interrupted, "hook"]


async def test_bug_in_a_hook_comes_through_to_a_strand(pump: Pump) -> None:
    seen: list[object] = []

    async def hook(client: Client, event: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    pump.spawn(judged(Pipeline(30, mail=[hook]), seen))
    await trio.testing.wait_all_tasks_blocked()
    assert seen == [ZeroDivisionError]


@pytest.mark.parametrize("stage", STAGES)
def test_it_is_known_where_anybody_is_to_be_asked(stage: Stage) -> None:
    pipeline = Pipeline(30, **{stage: [says(None, [], "a")]})  # type: ignore[arg-type]
    assert [asked for asked in STAGES if pipeline.judges(asked)] == [stage]


async def test_bug_in_a_hook_comes_through() -> None:
    async def hook(client: Client, event: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Pipeline(30, mail=[hook]).judge("mail", CLIENT, None)
