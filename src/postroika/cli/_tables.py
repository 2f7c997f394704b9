"""Tables for people. On a terminal they fit its width; in a pipe nothing is cut or wrapped: one row is one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


class Column(NamedTuple):
    """A heading, whether the cells are set to the right, and whether they may be wrapped."""

    heading: str
    right: bool = False
    wraps: bool = False


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
    """Print rows of as many cells as there are columns. A str is taken as it is, without markup."""
    if console.is_terminal:
        _print_fitting(console, columns, rows)
    else:
        _print_whole(console, columns, rows)


def _print_fitting(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=not column.wraps,
        )
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console.print(table)


def _print_whole(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
    from rich.cells import cell_len

    plain = [[column.heading for column in columns], *([_one_line(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*plain, strict=True)]
    for cells in plain:
        padded = []
        for cell, width, column in zip(cells, widths, columns, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if column.right else cell + space)
        console.out("  ".join(padded).rstrip(), highlight=False)


def _one_line(cell: Text | str) -> str:
    return " ".join((cell if isinstance(cell, str) else cell.plain).split("\n"))
