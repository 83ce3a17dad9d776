"""Metric lines: kept in memory for a moment, written whole, always on disk before a checkpoint is."""

import time
from collections.abc import Callable
from typing import Any

from steepest.runs import RunFolder

FLUSH_SECONDS = 1.0


class MetricsLog:
    """Buffers records for ``metrics.jsonl``; a killed run loses only lines after its last checkpoint.

    Args:
        also: gets every record as well, at once.
    """

    def __init__(
        self, folder: RunFolder, also: Callable[[dict[str, Any]], None] = lambda record: None
    ) -> None:
        self.folder, self.also = folder, also
        self._records: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def append(self, record: dict[str, Any]) -> None:
        """Add a record; writes when the last write is a second ago."""
        self._records.append(record)
        self.also(record)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        if self._records:
            self.folder.append_metrics(*self._records)
            self._records = []
        self._flushed = time.monotonic()
