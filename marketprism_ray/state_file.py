"""A small file that must outlive crashes: written as one step, kept twice, recovered from when it is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Recovered:
    """What a state file said.

    Parameters
    ----------
    content : None if nothing was ever written, or nothing could be read
    lost : how much of it is gone: ``nothing``, ``latest`` (the copy before was read), ``all``
    notes : what was wrong, for the operator
    """

    content: dict[str, Any] | None
    lost: str = "nothing"
    notes: tuple[str, ...] = ()


class StateFile:
    """A JSON object on disk, and the one before it as ``.bak``.

    Parameters
    ----------
    path : of the file; its folder is made
    keys : what an object must have to be taken
    """

    def __init__(self, path: Path, keys: Collection[str]) -> None:
        self.path = path
        self._backup = path.with_suffix(".bak")
        self._keys = set(keys)

    def read(self) -> Recovered:
        """Give what was written last, or the time before if that cannot be read; a damaged file is set aside."""
        notes: list[str] = []
        found_any = False
        for path in (self.path, self._backup):
            try:
                text = path.read_text(errors="replace")
            except FileNotFoundError:
                continue
            found_any = True
            content = self._parse(text)
            if content is not None:
                # A crash between the two renames leaves the copy alone: that is the latest there is.
                return Recovered(content, "latest" if notes else "nothing", tuple(notes))
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            notes.append(f"{path.name} cannot be read ({len(text)} characters); set aside as {aside.name}")
        return Recovered(None, "all" if found_any else "nothing", tuple(notes))

    def _parse(self, text: str) -> dict[str, Any] | None:
        try:
            content = json.loads(text)
        except ValueError:
            return None
        return content if isinstance(content, dict) and self._keys <= content.keys() else None

    def write(self, content: dict[str, Any]) -> None:
        """Write it durably.

        Raises
        ------
        OSError
            If the disk does not take it; what was there stays.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path.with_suffix(".new")
        with draft.open("w") as file:
            file.write(json.dumps(content))
            file.flush()
            os.fsync(file.fileno())
        if self.path.exists():
            self.path.replace(self._backup)
        draft.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
