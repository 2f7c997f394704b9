"""The total of connections: who gets the one that is given back, in the moment in which it is."""

from __future__ import annotations

import pytest

from postroika.pump import Pump, Strand, open_pump
from postroika.queue.connections import Connections
from tests.component.strands import settled


def nobody() -> None:
    """Who is next in line is asked by the tests themselves."""


def returning(pump: Pump, connections: Connections, name: str, got: list[str]) -> Strand:
    """A lane that goes on."""

    async def call() -> None:
        await connections.take_again()
        got.append(name)

    return pump.spawn(call())


async def test_who_returns_goes_before_who_stands_in_line() -> None:
    async with open_pump() as pump:
        connections, got = Connections(1, nobody), list[str]()
        connections.take()
        returning(pump, connections, "first", got)
        returning(pump, connections, "second", got)
        connections.want("hungry")
        await settled()
        assert (got, connections.others_wait("hungry"), connections.next_in_line()) == ([], True, None)
        for expected in (["first"], ["first", "second"]):
            connections.give_back()
            assert connections.next_in_line() is None  # though the strand has not looked yet
            await settled()
            assert (got, connections.open) == (expected, 1)
        connections.give_back()
        assert (connections.next_in_line(), connections.open) == ("hungry", 0)


async def test_who_returns_while_there_is_room_does_not_wait() -> None:
    async with open_pump() as pump:
        connections, got = Connections(2, nobody), list[str]()
        connections.take()
        returning(pump, connections, "one", got)
        await settled()
        assert (got, connections.open) == (["one"], 2)


async def test_interrupted_while_it_waits_it_has_none() -> None:
    async with open_pump() as pump:
        connections, got = Connections(1, nobody), list[str]()
        connections.take()
        strand = returning(pump, connections, "first", got)
        returning(pump, connections, "second", got)
        await settled()
        strand.interrupt()
        await settled()
        connections.give_back()
        await settled()
        assert (got, connections.open) == (["second"], 1)
        connections.give_back()
        assert connections.open == 0


@pytest.mark.parametrize("order", ["given first", "interrupted first"])
async def test_what_is_given_in_the_moment_of_interruption_is_held(order: str) -> None:
    async with open_pump() as pump:
        connections, got = Connections(1, nobody), list[str]()
        connections.take()
        strand = returning(pump, connections, "first", got)
        await settled()
        if order == "interrupted first":
            strand.interrupt()
        connections.give_back()
        if order == "given first":
            strand.interrupt()
        await settled()
        assert (got, connections.open) == (["first"], 1)
