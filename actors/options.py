"""One table of Ray options per kind of actor. The coordinator is the only one Ray restarts; it replaces the others."""

from __future__ import annotations

from typing import Any

NAMESPACE = "marketprism"

OPTIONS: dict[str, dict[str, Any]] = {
    "coordinator": {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 100},
    "collector": {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 100},
    "sink": {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 1000},
}


def actor_name(system: str, kind: str, name: str = "") -> str:
    """Give the name an actor has in the dashboard: ``marketprism-collector-okx_spot#0``."""
    return "-".join(part for part in (system, kind, name) if part)
