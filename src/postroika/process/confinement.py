"""Takes from a process what it will not need: ways to more rights, and ways for its memory to be seen.

Promise: what is taken stays taken, for all programs that the process starts as well, but for `hide_memory`, which each
program has to do for itself.

Source: prctl(2), capabilities(7), core(5). Privileges belong to threads, so all of this is done before there are more.
"""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySet(ctypes.Structure):
    """32 of the 64 bits of each set; capset(2) takes two of these."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def give_up_privileges() -> None:
    """Let go of all capabilities, and of the ways in which a started program could have more rights than we have.

    Ambient capabilities, which a service manager gives and started programs inherit, go with the permitted ones.

    Raises:
        OSError: the system refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = _CapabilityHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    _checked("capset", libc.capset(ctypes.byref(header), ctypes.byref((_CapabilitySet * 2)())))
    _checked("PR_SET_NO_NEW_PRIVS", libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def leave_no_core() -> None:
    """Write no core file, in which keys and mail would lie open: not this process nor any that it starts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def hide_memory() -> None:
    """Let nobody but root look at our memory: no core dump by any handler, no ptrace(2) by another process of the user.

    Raises:
        OSError: the system refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _checked("PR_SET_DUMPABLE", libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def _checked(what: str, result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
