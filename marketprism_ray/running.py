"""What a running system leaves in its data directory for those who want to talk to it: ``run.json``."""

from __future__ import annotations

import json
import subprocess
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
    if found["local"] and started(found["pid"]) != found["started"]:
        raise ConfigError(f"{path}: process {found['pid']}, which ran here, is gone without a word; {START}")
    return found


def started(pid: int) -> str | None:
    """Give when a process of this machine began, as the system counts it; None if there is no such process.

    A number alone says little: after a restart of the machine it may be anybody's.
    """
    try:
        # Behind the name in brackets, which may hold spaces: the 20th field, in ticks since the machine's start.
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{ticks}"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
