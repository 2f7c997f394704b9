"""Child processes, started from the main thread.

Trio starts processes in a worker thread; but the kernel's "kill me when my parent ends" (lifeline) means the thread
that started the child, and trio's threads end when they have been idle for a while. So this is done by hand.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

import trio

_KILL_WAIT_S = 5.0


class ChildProcess:
    """A running child.

    Args:
        command: as for `subprocess.Popen`.
        stdin: a file descriptor, or None for nothing.
        pass_fds: kept open in the child, under the same numbers.
        shielded: SIGINT is blocked in the child, until it says what it means: Ctrl-C reaches all processes of a
            terminal, and a Python that is about to import its modules answers with a traceback.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int | None = None,
        pass_fds: Sequence[int] = (),
        shielded: bool = False,
    ) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT} if shielded else ())  # children inherit it
        try:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL if stdin is None else stdin, pass_fds=tuple(pass_fds)
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid)

    async def wait(self) -> int:
        """Wait for its end. Returns the exit code; negative: the signal that killed it."""
        while (code := self._popen.poll()) is None:
            await trio.lowlevel.wait_readable(self._pidfd)
        return code

    def kill(self) -> None:
        """SIGKILL."""
        if self._popen.poll() is None:
            self._popen.kill()

    async def end(self) -> None:
        """Kill it if it still runs, and forget it.

        Cancellation: none, for at most some seconds.
        """
        if self._popen.poll() is None:
            self.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _KILL_WAIT_S):
                await self.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
