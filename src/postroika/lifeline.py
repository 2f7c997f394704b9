"""Ties a child process to its parent: no orphan is ever met by the next start.

Source: prctl(2), PR_SET_PDEATHSIG. The signal comes when the thread that started the child ends; the supervisor starts
its children from its main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def die_with(parent: int) -> None:
    """Be killed when process `parent`, our parent, ends; end now if it already has."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(os.EX_UNAVAILABLE)


def call_process(name: str) -> None:
    """Show as `name` (15 characters) in top and ps."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
