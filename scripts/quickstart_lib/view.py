"""Showing progress: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from quickstart_lib.watch import Board, Row

STARTED = time.monotonic()


class Screen:
    """Where everything is printed."""

    def __init__(self, console: Console | None = None) -> None:
        """Print to stdout."""
        self.console = console or Console(highlight=False)

    def say(self, text: str, style: str = "") -> None:
        """Print one line with the seconds since the start."""
        self.plain(f"{time.monotonic() - STARTED:6.1f}s  {text}", style)

    def plain(self, text: str = "", style: str = "") -> None:
        """Print a line as it is, however long: it may be for copying."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show that something takes a while; yields a function that replaces the text."""
        if not self.console.is_terminal:
            self.say(text)
            yield self.say
            return
        begin = time.monotonic()
        with self.console.status(escape(text)) as status:
            yield lambda more: status.update(escape(f"{more}  ({time.monotonic() - begin:.0f} s)"))

    def board(self, board: Board) -> AbstractContextManager[Callable[[Row], None]]:
        """Show a workflow's progress; yields a function to call with each row that changed."""
        return self._live(board) if self.console.is_terminal else self._lines()

    @contextmanager
    def _live(self, board: Board) -> Iterator[Callable[[Row], None]]:
        with Live(console=self.console, get_renderable=lambda: _progress_table(board), refresh_per_second=4):
            yield lambda _row: None

    @contextmanager
    def _lines(self) -> Iterator[Callable[[Row], None]]:
        yield lambda row: self.say(
            f"{row.label:16} {'FAILED: ' if row.failed else ''}{row.step}  {row.detail}".rstrip()
        )

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """Print a table whose cells are never broken: a terminal wraps what is too long, and copies it whole."""
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for number, row in enumerate([columns, *rows]):
            line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self.plain(line, "" if number else "bold")


def _progress_table(board: Board) -> Table:
    table = Table("what", "step", "", "time", box=None, padding=(0, 3, 0, 0))
    now = board.clock()
    rows = list(board.rows.values())  # a copy: lines are read while this is drawn
    for row in sorted(rows, key=lambda row: row.began):
        style = "red" if row.failed else "green" if row.ended is not None else ""
        step = "FAILED" if row.failed else row.step
        detail = "see below" if row.failed else escape(row.detail)
        table.add_row(escape(row.label), step, detail, f"{row.seconds(now):.1f} s", style=style)
    return table
