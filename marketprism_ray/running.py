"""What a running system leaves in its data directory for those who want to talk to it: ``run.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from marketprism_ray.errors import ConfigError

START = "start it with `marketprism up`"


def run_file(data_dir: Path) -> Path:
    """Give where it stands."""
    return data_dir.absolute() / "run.json"


def outcome_file(data_dir: Path) -> Path:
    """Give where the last run says how it ended."""
    return data_dir.absolute() / "stopped.json"


def read_run(data_dir: Path) -> dict[str, Any]:
    """Give what the running system left.

    Raises
    ------
    ConfigError
        If nothing runs with this data directory.
    """
    path = run_file(data_dir)
    if not path.exists():
        raise ConfigError(f"{path}: nothing runs with this data directory; {START}")
    found: dict[str, Any] = json.loads(path.read_text())
    if found["local"] and not is_alive(found["pid"]):
        raise ConfigError(f"{path}: process {found['pid']}, which ran here, is gone without a word; {START}")
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return True
