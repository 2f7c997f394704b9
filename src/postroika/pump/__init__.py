"""Steps many coroutines in one task: for connections, which mostly wait for bytes and must not cost a task switch each.

Promise: a `Strand` is a coroutine that runs between two waits without interruption, like a task, but is resumed by a
plain call from the pump. It waits only with what is in this package (`Channel`, `Wake`, `breathe`, `in_task`); any
other `await` is a bug and ends the process loudly. The pump is a scope: it ends when its strands have ended, and when
it is cancelled, or a strand fails, all of them are interrupted first.

How: each connection is in one persistent, edge-triggered epoll set; nothing is registered again for a wait. What became
ready is stepped at once, in the order in which the kernel tells. What others wake (a commit that is synced, work for an
idle connection) is stepped by a task of the pump; if a step is under way, right after it. Deadlines are plain numbers,
and one task looks at all of them a few times a second: at 30 seconds and more, nobody misses a fraction.

`Wake`, `breathe`, `in_task` work in an ordinary task, too, so that both may call the same code.
"""

from postroika.pump.channel import LARGE_READ_BYTES, READ_BYTES, Channel
from postroika.pump.loop import Interrupted, Late, Strand, current, now
from postroika.pump.scope import Pump, open_pump
from postroika.pump.wake import Wake, breathe, in_task

__all__ = [
    "LARGE_READ_BYTES", "READ_BYTES", "Channel", "Interrupted", "Late", "Pump", "Strand", "Wake", "breathe", "current",
    "in_task", "now", "open_pump",
]  # fmt: skip
