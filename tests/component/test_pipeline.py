"""policy.pipeline: ordered hooks, first verdict, a deadline."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postroika.mail.reply import Reply, reply
from postroika.policy.pipeline import STAGES, TOO_SLOW, Client, Hook, Pipeline

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


async def test_bug_in_a_hook_comes_through() -> None:
    async def hook(client: Client, event: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Pipeline(30, mail=[hook]).judge("mail", CLIENT, None)
