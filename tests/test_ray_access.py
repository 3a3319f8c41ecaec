"""Ray lets in who has the system's token, and nobody else; it listens on loopback."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from marketprism_ray.config import load, validate
from marketprism_ray.sinks.nats import NatsSettings

pytestmark = pytest.mark.ray

STRANGER = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
except BaseException as error:
    print("refused", type(error).__name__)
else:
    print("in", len(ray.nodes()))
"""
GCS = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).internal_kv_put(b"k", b"v", True, None)
except BaseException as error:
    print("refused", type(error).__name__)
else:
    print("in")
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from actors.app import System

    folder = tmp_path_factory.mktemp("data")
    made = System(validate({"system": {"data_dir": str(folder)}, "cluster": {"dashboard": True}}, "test"))
    made._start_ray()
    yield made
    made.stop()
    assert not (folder / "ray.token").exists()
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def try_as(code: str, address: str, home: Path, **environment: str) -> str:
    """Run as another process that has nothing of ours but the address."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean |= {"HOME": str(home), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code, address], env=clean, capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout.strip()


def test_a_stranger_is_refused_by_every_door_and_the_owner_is_not(system: Any, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    token = system.config.system.data_dir / "ray.token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert address.startswith("127.0.0.1:")
    for environment in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 48}, {"RAY_AUTH_MODE": "disabled"}):
        assert try_as(GCS, address, tmp_path, **environment).startswith("refused"), environment
    assert try_as(STRANGER, address, tmp_path).startswith("refused")
    theirs = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    assert try_as(STRANGER, address, tmp_path, **theirs) == "in 1"
    dashboard = f"http://{ray._private.worker.global_worker.node.webui_url}"
    for path in ("/api/version", "/api/jobs/", "/api/v0/actors", "/nodes?view=summary", "/api/cluster_status"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(dashboard + path, timeout=60)
    assert not (tmp_path / ".ray").exists()


def test_everything_that_ray_starts_listens_on_loopback(system: Any) -> None:
    ours = {os.getpid()}
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue  # it has ended meanwhile
            parents[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    lines = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split()[3] for line in lines if any(f"pid={pid}," in line for pid in ours)]
    assert len(found) > 5
    assert [place for place in found if "127.0.0.1" not in place] == []


def test_no_secret_is_in_an_argument_of_ray_or_its_logs(system: Any) -> None:
    token = (system.config.system.data_dir / "ray.token").read_text()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                assert token.encode() not in (entry / "cmdline").read_bytes()
                assert token.encode() not in (entry / "environ").read_bytes()
            except OSError:
                continue
    logs = Path(system._temporary.name)
    assert not any(token in file.read_text(errors="replace") for file in logs.rglob("*") if file.is_file())


def test_settings_and_configuration_as_arguments_of_an_actor_show_no_secret(system: Any) -> None:
    import ray
    from ray.util.state import list_actors

    settings = NatsSettings(("nats://me:hunter2@127.0.0.1:9",), password=SecretStr("hunter2"))
    config = load(None, {"MARKETPRISM_CLICKHOUSE__PASSWORD": "hunter2"})

    class Failing:
        def __init__(self, config: Any, settings: Any) -> None:
            self.given = (config, settings)

        def fail(self) -> None:
            raise RuntimeError(f"with {self.given!r}")

    actor = ray.remote(num_cpus=0)(Failing).options(name="failing").remote(config, settings)
    with pytest.raises(ray.exceptions.RayTaskError) as error:
        ray.get(actor.fail.remote())
    assert "hunter2" not in str(error.value)
    assert "with (Config(" in str(error.value)
    ours = ray.get_runtime_context().gcs_address
    assert "hunter2" not in repr(list_actors(address=ours, detail=True))
    assert "hunter2" in settings.servers[0], "it was there to be seen"
    logs = Path(system._temporary.name)
    assert not any("hunter2" in file.read_text(errors="replace") for file in logs.rglob("*.*") if file.is_file())


def test_a_setting_of_the_users_own_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actors import access

    monkeypatch.setattr(access, "_made", set())
    access.make_token(tmp_path)
    for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x" * 40), ("RAY_AUTH_TOKEN_PATH", "/x")):
        with monkeypatch.context() as patch:
            for other in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
                patch.delenv(other, raising=False)
            patch.setenv(name, value)
            access.make_token(tmp_path)
            assert not (tmp_path / "ray.token").exists()
            access.use_token(tmp_path)
            assert os.environ[name] == value
            given = {n for n in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if n in os.environ}
            assert given == {name}
