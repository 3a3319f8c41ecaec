"""Rows that a server refuses for good: kept in files, named in gap rows, delivered again by command.

A row stands alone in a file, written whole before it is given up. As long as a file is there, the gap row that names it
is open. Files whose gap row is not durable yet end in ``.arrow``, the others in ``.noted.arrow``: nobody who dies in
between is missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from marketprism_ray.encoding import data_type_of
from marketprism_ray.records import RECORDS, SEQUENCE_COLUMNS, Gap, Kline

_NEW, _NOTED = ".arrow", ".noted.arrow"
_ERROR = b"error"


class DeadLetters:
    """The dead letters of one sink.

    Parameters
    ----------
    folder : shared by the sinks of a machine
    kind : of the sink; file names begin with it
    """

    def __init__(self, folder: Path, kind: str, clock: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._kind = kind
        self._clock = clock
        self.unnoted = len(self._files(_NEW))

    def _files(self, suffix: str) -> list[Path]:
        found = self._folder.glob(f"{self._kind}-*{suffix}")
        return sorted(path for path in found if suffix == _NOTED or not path.name.endswith(_NOTED))

    def keep(self, row: pa.RecordBatch, error: str) -> Path:
        """Write a row to a file of its own, durably."""
        self._folder.mkdir(parents=True, exist_ok=True)
        is_gap = data_type_of(row) == Gap.table
        # A gap row about a gap row would meet the same fate.
        path = self._folder / f"{self._kind}-{self._clock()}{_NOTED if is_gap else _NEW}"
        draft = path.with_suffix(".draft")
        schema = row.schema.with_metadata({**(row.schema.metadata or {}), _ERROR: error.encode()})
        with draft.open("wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                writer.write_batch(row.replace_schema_metadata(schema.metadata))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        self.unnoted += not is_gap
        return path

    def to_note(self) -> tuple[list[str], list[Gap]]:
        """Give the files that no gap row names yet, and those rows."""
        paths = self._files(_NEW)
        return [path.name for path in paths], [gap_of(_read(path)) for path in paths]

    def noted(self, names: Iterable[str]) -> None:
        """Remember that the gap rows of these files are durable."""
        for name in names:
            path = self._folder / name
            if path.exists():
                path.rename(path.with_name(path.name.removesuffix(_NEW) + _NOTED))
        self.unnoted = len(self._files(_NEW))

    def rows(self) -> list[tuple[str, pa.RecordBatch]]:
        """Give every kept row with the name of its file."""
        return [(path.name, _read(path)) for path in sorted((*self._files(_NOTED), *self._files(_NEW)))]

    def delivered(self, name: str) -> None:
        """Forget a row that the server has taken after all."""
        (self._folder / name).unlink(missing_ok=True)
        self.unnoted = len(self._files(_NEW))


def _read(path: Path) -> pa.RecordBatch:
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_file(file).get_batch(0)


def gap_of(row: pa.RecordBatch, *, repaired: bool = False) -> Gap:
    """Give the gap row that names one row which a sink does not have (or has after all)."""
    data_type = data_type_of(row)
    values = {name: row.column(name)[0] for name in ("exchange_name", "market_type", "symbol_name")}
    at = int(row.column("timestamp").cast(pa.int64())[0].as_py())
    sequence = row.column(SEQUENCE_COLUMNS[data_type])[0].as_py() if data_type in SEQUENCE_COLUMNS else None
    return Gap(
        **{name: value.as_py() for name, value in values.items()},
        timestamp=at,
        receive_timestamp=int(row.column("receive_timestamp").cast(pa.int64())[0].as_py()),
        source="stream",
        data_type=data_type,
        channel=row.column("interval")[0].as_py() if RECORDS[data_type] is Kline else "",
        reason="dead_letter",
        opened_at=at,
        closed_at=at,
        first_missing=sequence,
        last_missing=sequence,
        missing_count=1,
        repaired_count=int(repaired),
        status="repaired" if repaired else "open",
        revision=int(repaired),
    )


def mended(done: Sequence[Gap], left: Sequence[Gap]) -> list[Gap]:
    """Give the gap rows to close: of rows that every sink has now.

    Parameters
    ----------
    done : of rows that a sink has taken
    left : of rows that a sink still refuses
    """

    def place(gap: Gap) -> tuple[object, ...]:
        return (gap.exchange_name, gap.symbol_name, gap.data_type, gap.channel, gap.opened_at, gap.first_missing)

    refused = {place(gap) for gap in left}
    return list({place(gap): gap for gap in done if place(gap) not in refused}.values())
