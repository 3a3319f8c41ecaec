"""Structured logs: one line an event, UTC, secrets out. Set up once per process."""

from __future__ import annotations

import contextlib
import glob
import logging
import re
import sys
import time
import typing
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import structlog

from marketprism_ray.config import System
from marketprism_ray.errors import mask_urls

KEPT_DAYS = 14
"""Files of an actor that are kept."""

_SECRET_KEY = re.compile(r"password|token|secret|credential", re.I)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of an event: values under telling keys, user and password in URLs."""
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = "<redacted>"
        elif isinstance(value, str) and "@" in value:
            event[key] = mask_urls(value)
    return event


class DailyFile:
    """A text file for each day (UTC) and actor, ``NAME-YYYY-MM-DD.log``; each process that has the name appends to it.

    Parameters
    ----------
    also : where everything is written as well
    now : wall clock, s
    """

    def __init__(
        self, folder: Path, name: str, also: TextIO | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._name = re.sub(r"[^\w.#-]", "_", name)
        self._also = also
        self._now = now
        self._day = ""

    def write(self, text: str) -> int:
        """Write a line; where the disk does not take it, it is on ``also`` only."""
        if self._also is not None:
            self._also.write(text)
        with contextlib.suppress(OSError):
            self._append(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        if self._also is not None:
            self._also.flush()

    def _append(self, text: str) -> None:
        # Opened for each line, of which there are few: nothing stays open, and whole lines do not cut into each other.
        day = datetime.fromtimestamp(self._now(), UTC).date().isoformat()
        if day != self._day:
            self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{self._name}-{day}.log").open("a", encoding="utf-8") as file:
            file.write(text)
        if day != self._day:
            self._day = day
            for old in sorted(self._folder.glob(f"{glob.escape(self._name)}-????-??-??.log"))[:-KEPT_DAYS]:
                old.unlink(missing_ok=True)


@dataclass(frozen=True)
class LogSettings:
    """How an actor logs.

    Parameters
    ----------
    style : ``console`` for people, ``json`` for collectors of logs
    folder : of the files that stay when the actor has ended; None for none
    """

    level: str = "info"
    style: str = "console"
    folder: Path | None = None

    @staticmethod
    def of(system: System) -> LogSettings:
        """Give what is configured."""
        return LogSettings(system.log_level, system.log_format, system.data_dir.absolute() / "logs")


def configure_actor(settings: LogSettings, name: str) -> None:
    """Set up structlog in an actor's process: standard error, which Ray keeps as long as it runs, and a file."""
    file = None if settings.folder is None else DailyFile(settings.folder, name, sys.stderr)
    configure(settings.level, settings.style, file)


def configure(level: str = "info", style: str = "console", file: DailyFile | None = None) -> None:
    """Set up structlog on standard error.

    Parameters
    ----------
    style : ``console`` for people, ``json`` for collectors of logs
    file : takes the lines instead
    """
    renderer: Any = (
        structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(typing.cast(TextIO, file or sys.stderr)),
        cache_logger_on_first_use=True,
    )
    # Libraries that retry on our behalf would say so for every try.
    for name in ("urllib3", "clickhouse_connect", "nats", "websockets"):
        logging.getLogger(name).setLevel(logging.ERROR)
