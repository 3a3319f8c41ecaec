"""Structured logs: one line an event, UTC, secrets out. Set up once per process."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from marketprism_ray.errors import mask_urls

_SECRET_KEY = re.compile(r"password|token|secret|credential", re.I)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of an event: values under telling keys, user and password in URLs."""
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = "<redacted>"
        elif isinstance(value, str) and "@" in value:
            event[key] = mask_urls(value)
    return event


def configure(level: str = "info", style: str = "console") -> None:
    """Set up structlog on standard error.

    Parameters
    ----------
    style : ``console`` for people, ``json`` for collectors of logs
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that retry on our behalf would say so for every try.
    for name in ("urllib3", "clickhouse_connect", "nats", "websockets"):
        logging.getLogger(name).setLevel(logging.ERROR)
