"""Reads many pictures in threads; Pillow decodes without Python's lock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mnistjax.data.arrays import DataError
from mnistjax.data.listing import Picture, show
from mnistjax.decode import BadPicture, open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

BLOCK = 16  # pictures that a thread reads in one go
PATIENCE = 1.0  # seconds before a bar is shown

Result = TypeVar("Result")


@dataclass
class Reader:
    """Reads pictures in threads, and notes the damaged ones unless they are errors."""

    root: Path
    skip_bad: bool
    threads: int
    bad: dict[str, str] = field(default_factory=dict)  # reasons by path

    def read(
        self, pictures: Sequence[Picture], use: Callable[[int, Image], Result], *, header: bool = False
    ) -> list[Result | None]:
        """What `use` returns for each row and its opened picture; None for a damaged one."""

        def read_block(start: int) -> list[Result | BadPicture]:
            return [self._read_one(row, pictures[row], use, header) for row in rows[start : start + BLOCK]]

        rows, results = range(len(pictures)), []
        pool = ThreadPoolExecutor(self.threads)
        try:
            blocks = pool.map(read_block, rows[::BLOCK])
            for result in _watch(itertools.chain.from_iterable(blocks), len(pictures)):
                if isinstance(result, BadPicture):
                    self._note(pictures[len(results)], result)
                results.append(None if isinstance(result, BadPicture) else result)
        finally:
            pool.shutdown(cancel_futures=True)
        return results

    def _read_one(
        self, row: int, picture: Picture, use: Callable[[int, Image], Result], header: bool
    ) -> Result | BadPicture:
        try:
            with open_picture(self.root / picture.path, show(picture.path), header=header) as opened:
                return use(row, opened)
        except BadPicture as error:
            return error

    def _note(self, picture: Picture, error: BadPicture) -> None:
        if not self.skip_bad:
            raise DataError(f"{self.root}: {error}; data.skip_bad=true leaves such files out")
        self.bad[picture.path] = error.reason


def _watch(items: Iterable[Result], total: int) -> Iterator[Result]:
    """The items; if they take longer than PATIENCE, a bar at a terminal counts them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_interactive:
        yield from items
        return
    columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    task, start = bar.add_task("", total=total), time.monotonic()
    try:
        for item in items:
            yield item
            bar.advance(task)
            if not bar.live.is_started and time.monotonic() - start > PATIENCE:
                bar.start()
    finally:
        bar.stop()
