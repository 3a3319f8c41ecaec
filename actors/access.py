"""Who may talk to Ray: whoever has the token. A local system also listens on loopback alone.

Ray asks for a token by itself when it starts a cluster, but takes it from a file in the home directory that everybody
can read, and its servers listen on every address. Both can be said otherwise only by the environment, which Ray reads
when it is imported: what it has read by then is put right here, in the one place that reaches into it. What a user has
set himself is left as it is, also if he has turned it off.
"""

from __future__ import annotations

import os
from pathlib import Path

from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from marketprism_ray.credentials import make_secret, write_private

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Despite its name: 0 makes Ray, on every system, use the loopback address for itself and all that it starts."""

_made: set[str] = set()
"""Variables that we have set in this process: those a later system may set again."""


def token_file(data_dir: Path) -> Path:
    """Give where a system's token stands."""
    return data_dir.absolute() / "ray.token"


def _theirs() -> list[str]:
    """Give what a user has said himself."""
    return [name for name in (MODE, TOKEN, TOKEN_PATH) if name in os.environ and name not in _made]


def make_token(data_dir: Path) -> None:
    """Make a token for a new system, for its owner only, unless he has said what is to be used."""
    data_dir.mkdir(parents=True, exist_ok=True)
    token_file(data_dir).unlink(missing_ok=True)
    if not _theirs():
        write_private(token_file(data_dir), make_secret())


def use_token(data_dir: Path) -> None:
    """Let this process and its children speak to Ray with a system's token, if it has one."""
    path = token_file(data_dir)
    if not _theirs() and path.exists():
        _set(MODE, "token")
        _set(TOKEN_PATH, str(path))
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def stay_on_loopback() -> None:
    """Let Ray use loopback only, in this process and its children."""
    if LOOPBACK not in os.environ or LOOPBACK in _made:
        _set(LOOPBACK, "0")
        ray_constants.ENABLE_RAY_CLUSTER = False


def forget() -> None:
    """Take back what was set for a system that has ended."""
    for name in _made:
        os.environ.pop(name, None)
    if LOOPBACK in _made:
        ray_constants.ENABLE_RAY_CLUSTER = True
    _made.clear()


def _set(name: str, value: str) -> None:
    os.environ[name] = value
    _made.add(name)
