"""Giving back the pages of the map that this process has looked at.

LMDB reads through a shared mapping of the whole file, so every page that was ever read counts as resident memory of the
process for as long as the kernel does not need it: with a large backlog, most of the file. Nothing is wrong with that,
but it looks like growth, and limits of containers count it. Letting go of the mapping's pages costs a page fault for
those that are read again; their content stays in the page cache, and the map stays as it is.

Source: madvise(2), MADV_DONTNEED; proc(5), statm and maps.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_MADV_DONTNEED = 4
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def mapped_bytes() -> int:
    """Resident memory of this process that files back."""
    statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(statm, 256).split()[2]) * _PAGE_BYTES
    finally:
        os.close(statm)


def mappings(path: Path) -> list[tuple[int, int]]:
    """Where the file at `path` is mapped, read-only and shared: address and octets of each mapping."""
    wanted = str(path.resolve())
    found = []
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            # "r--s": a private or writable mapping would lose what it holds.
            if len(fields) == 6 and fields[5] == wanted and fields[1] == "r--s":
                start, _, end = fields[0].partition("-")
                found.append((int(start, 16), int(end, 16) - int(start, 16)))
    return found


def let_go(mapping: tuple[int, int]) -> None:
    """Give back the resident pages of one of `mappings`, which must still be there.

    Raises:
        OSError: the kernel refused.
    """
    if _libc.madvise(*mapping, _MADV_DONTNEED) != 0:
        raise OSError(ctypes.get_errno(), "madvise")
