"""The inner loops of the hot path: compiled where the package was installed with a C compiler, else in Python.

Both do the same; with the compiled ones the hot path is more than twice as fast. ``MARKETPRISM_PURE_PYTHON=1`` takes
the Python ones.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

_compiled: Any = None
if not os.environ.get("MARKETPRISM_PURE_PYTHON"):
    with contextlib.suppress(ImportError):
        _compiled = importlib.import_module("marketprism_ray._hot")

IS_COMPILED = _compiled is not None

if TYPE_CHECKING or not IS_COMPILED:
    from marketprism_ray.book import Book
    from marketprism_ray.columns import delta_columns, level_columns, number_text, trade_columns
    from marketprism_ray.intake import BookIntake, Cut, DeltaIntake, FrameIntake, TradeIntake
else:
    Book = _compiled.Book
    BookIntake = _compiled.BookIntake
    Cut = _compiled.Cut
    DeltaIntake = _compiled.DeltaIntake
    FrameIntake = _compiled.FrameIntake
    TradeIntake = _compiled.TradeIntake
    delta_columns = _compiled.delta_columns
    level_columns = _compiled.level_columns
    number_text = _compiled.number_text
    trade_columns = _compiled.trade_columns

__all__ = [
    "IS_COMPILED",
    "Book",
    "BookIntake",
    "Cut",
    "DeltaIntake",
    "FrameIntake",
    "TradeIntake",
    "delta_columns",
    "level_columns",
    "number_text",
    "trade_columns",
]
