"""The only wrapper over Ray's actor calls; tests put a fake in its place."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
import ray.exceptions

from actors.options import NAMESPACE, OPTIONS


class ActorGone(Exception):
    """A call could not be made or its actor died under it."""


class Cluster:
    """Create, find, call and kill actors."""

    def start(self, kind: str, name: str, plain: type, *arguments: Any) -> Any:
        """Create a named, detached actor from a plain class."""
        actor = ray.remote(**OPTIONS[kind])(plain)
        return actor.options(name=name, namespace=NAMESPACE, lifetime="detached").remote(*arguments)

    def find(self, name: str) -> Any | None:
        """Give the live actor of that name."""
        try:
            return ray.get_actor(name, NAMESPACE)
        except ValueError:
            return None

    async def call(self, handle: Any, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """Call a method and wait for its answer.

        Raises
        ------
        ActorGone
            If the actor is dead or dies meanwhile.
        TimeoutError
            If it does not answer in time.
        """
        try:
            answer = getattr(handle, method).remote(*arguments)
            return await (answer if timeout_s is None else asyncio.wait_for(answer, timeout_s))
        except ray.exceptions.RayActorError as error:
            raise ActorGone(str(error).splitlines()[0]) from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def kill(self, handle: Any) -> None:
        """End an actor for good."""
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(handle, no_restart=True)
