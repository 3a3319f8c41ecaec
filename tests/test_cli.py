from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marketprism_ray.cli import COMMANDS
from marketprism_ray.credentials import Credentials
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.simulator.process import SimulatorProcess

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "marketprism_ray.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_with_an_example(command: str) -> None:
    text = run(command, "--help").stdout
    assert "Example" in text
    assert f"marketprism {command}" in text


def test_help_lists_every_command_and_ray_is_not_imported_for_it() -> None:
    code = "import sys; from marketprism_ray.cli import cli; cli(['--help'], standalone_mode=False); "
    code += "assert 'ray' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_a_wrong_file_is_one_message_without_traceback(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("nats: {mod: x}")
    error = run("validate", str(file), code=2).stderr
    assert "nats.mod" in error
    assert "Traceback" not in error
    assert "nothing runs" in run("status", "--data-dir", str(tmp_path), code=2).stderr
    assert "no such folder" in run("replay", str(tmp_path / "none"), code=1).stderr
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not text" in run("validate", str(tmp_path / "noise.yaml"), code=2).stderr
    assert "words between dots" in run("tail", "a b", "--server", "nats://127.0.0.1:9", code=2).stderr
    assert "0<=x<=65535" in run("simulate", "--port", "70000", code=2).stderr


def test_a_system_that_is_gone_is_said_at_once_and_down_clears_up(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "run.json").write_text(json.dumps({"pid": ended.pid, "local": True, "started": "boot/1"}))
    for command in (["status"], ["query", "SELECT 1"], ["tail"], ["down"]):
        error = run(*command, "--data-dir", str(tmp_path), code=2).stderr
        assert f"process {ended.pid}, which ran here, is gone" in error
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("local", [True, False])
def test_down_ends_no_process_that_only_has_the_same_number(tmp_path: Path, local: bool) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        run_json = {"pid": stranger.pid, "local": local, "started": "an earlier boot/1"}
        (tmp_path / "run.json").write_text(json.dumps(run_json))
        error = run("down", "--data-dir", str(tmp_path), code=2 if local else 1).stderr
        assert ("is gone" if local else "is on another machine") in error
        assert (tmp_path / "run.json").exists() is not local
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_query_reads_unless_it_may_write(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path, nats=None) as servers:
        store = ("--url", f"127.0.0.1:{servers.clickhouse_port}", "--database", "default")
        secrets = Credentials.read(tmp_path)
        user, password = "MARKETPRISM_CLICKHOUSE__USER", "MARKETPRISM_CLICKHOUSE__PASSWORD"
        writer = {user: "writer", password: secrets.clickhouse_writer}
        reader = {user: "reader", password: secrets.clickhouse_reader}
        rows = run("query", "/* x */ SELECT [1, 2] AS a, 'x' AS b", "--format", "csv", *store, **reader).stdout
        assert rows.splitlines() == ["a,b", '"[1, 2]",x']
        run("query", "CREATE TABLE made (a Int64) ENGINE = MergeTree ORDER BY a", "--write", *store, **writer)
        changes = (
            "DROP TABLE made",
            "/* SELECT */ insert into made values (1)",
            "WITH 1 AS x INSERT INTO made SELECT x",
        )
        for who in (reader, writer):
            for sql in changes:
                assert "--write" in run("query", sql, *store, code=1, **who).stderr
            assert "Multi-statements" in run("query", "SELECT 1; DROP TABLE made", *store, code=1, **who).stderr
        assert "empty" in run("query", " ", *store, code=2).stderr
        assert "Authentication failed" in run("query", "SELECT 1", *store, code=1).stderr
        run("query", "INSERT INTO made SELECT 7", "--write", *store, **writer)
        assert "1 row" in run("query", "SELECT count() FROM made", *store, **reader).stdout


def test_venues_and_config_print_what_there_is() -> None:
    assert "okx_derivatives" in run("venues").stdout
    assert "replicas: 1" in run("config").stdout
    assert "| `nats.stream` |" in run("config", "--options").stdout


def test_instruments_are_listed_by_pattern_and_rank() -> None:
    with SimulatorProcess(("binance_coinm",), rate=100) as simulator:
        url = f"--url={simulator.endpoints['binance_coinm']['rest']}"
        found = run("instruments", "binance_coinm", "*-SWAP", "top:1:BTC-*", "--json", url).stdout.splitlines()
        names = [json.loads(line)["symbol_name"] for line in found]
        assert set(names[:2]) == {"BTC-USD-SWAP", "ETH-USD-SWAP"}
        table = run("instruments", "binance_coinm", "BTCUSD_291228", url).stdout
        assert "2029-12-28 08:00" in table
        assert "100 USD" in table
        wrong = run("instruments", "binance_coinm", "BTC-USD-SWAPP", url, code=2)
        assert "nearest: BTC-USD-SWAP" in wrong.stderr


def test_what_is_recorded_from_a_venue_replays_to_the_same(tmp_path: Path) -> None:
    with SimulatorProcess(("okx_derivatives",), rate=300) as simulator:
        urls = [f"--endpoint={name}={url}" for name, url in simulator.endpoints["okx_derivatives"].items()]
        run(
            "record",
            "okx_derivatives",
            "--symbols",
            "BTC-USDT-SWAP,BTC-USD-SWAP",
            "--seconds",
            "2",
            "--out",
            str(tmp_path),
            *urls,
        )
        config = tmp_path / "c.yaml"
        endpoints = json.dumps(simulator.endpoints["okx_derivatives"])
        config.write_text(f'exchanges: {{okx_derivatives: {{symbols: ["*"], endpoints: {endpoints}}}}}')
        assert "6 wanted" in run("validate", str(config), "--connect").stdout
    (file,) = json.loads(run("replay", str(tmp_path), "--json").stdout.splitlines()[-1]).values()
    symbols = file["segments"][0]["symbols"]
    assert set(symbols) == {"BTC-USDT-SWAP", "BTC-USD-SWAP"}
    for channels in symbols.values():
        assert channels["trades-all"]["count"] > 10
        assert channels["trades-all"]["missing"] == 0
        assert (channels["books"]["state"], channels["books"]["gaps"]) == ("live", 0)


def test_simulate_refuses_what_it_cannot_do() -> None:
    assert "cannot simulate kraken" in run("simulate", "--venues", "kraken", code=2).stderr
