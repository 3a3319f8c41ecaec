"""What the coordinator does about rows that a server refused: a gap row for each, and delivery again by command."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from marketprism_ray.dead_letters import mended
from marketprism_ray.records import Gap

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of a sink: (method, arguments)."""
Tell = Callable[[str, Sequence[Gap]], Awaitable[None]]
"""Writes gap rows through all sinks, durably: (id that stays the same over retries, rows)."""


async def note_dead_letters(ask: Ask, tell: Tell) -> None:
    """Write the gap rows of a sink's new dead letters, then tell the sink that they are durable."""
    names, gaps = await ask("dead_letters_to_note")
    if names:
        await tell(f"dead/{_digest(names)}", gaps)
        await ask("dead_letters_noted", names)


async def redeliver(sinks: Sequence[Ask], tell: Tell) -> str:
    """Let every sink try its dead letters again; says what became of them."""
    done: list[Gap] = []
    left: list[Gap] = []
    names: list[str] = []
    for ask in sinks:
        taken, accepted, refused = await ask("redeliver")
        names += taken
        done += accepted
        left += refused
    closed = mended(done, left)
    if closed:
        await tell(f"redelivered/{_digest(names)}", closed)
    return f"{len(done):,} rows delivered, {len(left):,} refused again" if done or left else "no dead letters"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
