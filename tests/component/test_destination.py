"""A destination in memory: what is told of the batches that wait there."""

from __future__ import annotations

import msgspec

from postroika.queue.destination import _AHEAD, Destination
from postroika.queue.limits import Ramp
from postroika.spool.reader import Loaded
from tests.component.outbound_fakes import loaded


def batch(number: int, class_id: int) -> Loaded:
    whole = loaded(number)
    return Loaded(whole.key, msgspec.structs.replace(whole.batch, class_id=class_id), whole.body)


def test_what_is_coming_is_some_way_behind_and_of_the_same_class() -> None:
    state = Destination("y.test", Ramp(1, 1), None)
    bulk = [batch(number, 1) for number in range(_AHEAD + 2)]
    receipt = batch(1000, 2)
    for one in (*bulk, receipt):
        state.append(one)
    assert state.coming(1) is bulk[_AHEAD]
    assert state.coming(2) is None
    assert state.coming(3) is None
    taken = [state.pop() for _ in range(3)]
    assert taken == [bulk[0], receipt, bulk[1]]
    assert state.coming(1) is None  # as many wait as are taken before it
    assert state.coming(2) is None
