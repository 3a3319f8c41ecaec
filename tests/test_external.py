"""Servers that are not ours: TLS, users and tokens, wrong ones too; and disks that are full or cannot be written."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import nkeys
import pyarrow as pa
import pytest
import trustme
from aiohttp import web
from pydantic import SecretStr
from test_encoding import trade

from marketprism_ray.config import Config, load
from marketprism_ray.credentials import Credentials
from marketprism_ray.errors import SinkUnavailable
from marketprism_ray.query import Store, stream_records
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.servers import EmbeddedServers, nats_binary
from marketprism_ray.sinks import Sink
from marketprism_ray.sinks.clickhouse import ClickHouseSettings, ClickHouseSink
from marketprism_ray.sinks.nats import NatsSettings, NatsSink
from marketprism_ray.sinks.settings import clickhouse_settings, nats_settings, published, reader_settings

TOKEN, USER, PASSWORD = "s3cret-token", "collector", "s3cret-password"


def trades(first: int, last: int) -> pa.RecordBatch:
    return batch_from_records([trade(trade_id=str(n), sequence=n) for n in range(first, last + 1)])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.LeafCert, Path, Path]:
    """Give a server's certificate, its file, and the file of the authority that signed it."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    leaf = ca.issue_cert("127.0.0.1", "localhost")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return leaf, folder / "server.pem", folder / "ca.pem"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def running(conf: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a nats-server by its configuration file."""
    process = subprocess.Popen([nats_binary(), "-c", str(conf)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            break
    yield process
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def secure_nats(
    authority: tuple[trustme.LeafCert, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run a nats-server that wants TLS and a token."""
    folder, port, (_, pem, _) = tmp_path_factory.mktemp("nats"), free_port(), authority
    (folder / "nats.conf").write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}" }}\n'
        f'tls {{ cert_file: "{pem}", key_file: "{pem}" }}\nauthorization {{ token: "{TOKEN}" }}\n'
    )
    with running(folder / "nats.conf", port):
        yield f"tls://127.0.0.1:{port}"


@pytest.fixture
async def secure_clickhouse(
    authority: tuple[trustme.LeafCert, Path, Path], tmp_path: Path
) -> AsyncIterator[tuple[int, list[str]]]:
    """Run the engine behind HTTPS that wants user and password; gives the port and what was refused."""
    refused: list[str] = []
    with EmbeddedServers(tmp_path / "data") as servers:
        writer = Credentials.read(servers.data_dir).clickhouse_writer
        async with aiohttp.ClientSession(auto_decompress=False) as session:

            async def forward(request: web.Request) -> web.Response:
                basic = request.headers.get("Authorization", "").removeprefix("Basic ")
                user, _, password = base64.b64decode(basic).decode().partition(":")
                user = request.headers.get("X-ClickHouse-User", user)
                if (user, request.headers.get("X-ClickHouse-Key", password)) != (USER, PASSWORD):
                    refused.append(user)
                    text = f"Code: 516. DB::Exception: {user}: Authentication failed. (AUTHENTICATION_FAILED)"
                    return web.Response(status=403, text=text, headers={"X-ClickHouse-Exception-Code": "516"})
                url = f"http://127.0.0.1:{servers.clickhouse_port}{request.path_qs}"
                kept = {k: v for k, v in request.headers.items() if k.lower() in ("content-type", "content-encoding")}
                kept |= {"X-ClickHouse-User": "writer", "X-ClickHouse-Key": writer}
                async with session.post(url, data=await request.read(), headers=kept) as answer:
                    shown = {
                        k: v for k, v in answer.headers.items() if k.lower().startswith(("x-clickhouse", "content-t"))
                    }
                    return web.Response(status=answer.status, body=await answer.read(), headers=shown)

            app = web.Application(client_max_size=1 << 26)
            app.add_routes([web.route("*", "/{any:.*}", forward)])
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority[0].configure_cert(context)
            runner = web.AppRunner(app)
            await runner.setup()
            port = free_port()
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
            yield port, refused
            await runner.cleanup()


def config(path: Path, text: str, **secrets: str) -> Config:
    (path / "c.yaml").write_text(text)
    return load(path / "c.yaml", {f"MARKETPRISM_{name}": value for name, value in secrets.items()})


async def test_nats_with_tls_and_a_token(
    secure_nats: str, authority: tuple[trustme.LeafCert, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"nats: {{mode: external, servers: ['{secure_nats}'], tls_ca: {authority[2]}}}"
    settings = nats_settings(config(tmp_path, text, NATS__TOKEN=TOKEN))
    sink = NatsSink(settings)
    await sink.open()
    assert await sink.write([trades(1, 300)], "a") == 300
    await sink.close()
    monkeypatch.setenv("MARKETPRISM_NATS__TOKEN", TOKEN)
    external = config(tmp_path, "{nats: {mode: external}, clickhouse: {mode: external}}")
    shown = published(external, settings, ClickHouseSettings("127.0.0.1", 1))
    assert TOKEN not in json.dumps(shown)
    found = await stream_records(reader_settings(shown, tmp_path)[0], "trades-data.>")
    assert [record["sequence"] for record in found] == list(range(1, 301))


async def test_a_server_that_turned_a_live_connection_away_is_written_to_when_it_takes_it_again(tmp_path: Path) -> None:
    port, conf = free_port(), tmp_path / "n.conf"

    def want(token: str) -> None:
        conf.write_text(
            f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}/js" }}\n'
            f'authorization {{ token: "{token}" }}\n'
        )

    want(TOKEN)
    with running(conf, port) as server:
        sink = NatsSink(NatsSettings((f"nats://127.0.0.1:{port}",), token=SecretStr(TOKEN)))
        await sink.open()
        await sink.write([trades(1, 5)], "a")
        want("another")
        server.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while not sink._client.is_closed:  # noqa: ASYNC110 - the server does it
                await asyncio.sleep(0.02)
        with pytest.raises(SinkUnavailable, match="Authorization"):
            await sink.write([trades(6, 9)], "b")
        want(TOKEN)
        server.send_signal(signal.SIGHUP)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(SinkUnavailable):
                    await sink.write([trades(6, 9)], "b")
                    break
        found = await stream_records(sink.settings, "trades-data.>")
        assert [record["sequence"] for record in found] == list(range(1, 10))
        await sink.close()


class Signer:
    """An operator, account or user that signs JWTs, as ``nsc`` would make them."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind)
        self.key = nkeys.from_seed(bytearray(self.seed))
        self.name = self.key.public_key.decode()

    def token(self, subject: Signer, kind: str, **claims: Any) -> str:
        body = {
            "jti": "".join(random.choices("ABCDEFGH", k=52)),
            "iat": int(time.time()),
            "iss": self.name,
            "sub": subject.name,
            "name": kind,
            "nats": {"type": kind, "version": 2, **claims},
        }
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{_base64(self.key.sign(text.encode()))}"


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.fixture
def nats_with_accounts(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """Run a nats-server that knows only an operator's accounts; gives it, a user's file, and a stranger's."""
    operator, system, account, user, stranger = (
        Signer(kind)
        for kind in (
            nkeys.PREFIX_BYTE_OPERATOR,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_ACCOUNT,
            nkeys.PREFIX_BYTE_USER,
            nkeys.PREFIX_BYTE_USER,
        )
    )
    limits = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage"), -1
    )
    limits |= {"wildcards": True, "streams": -1, "consumer": -1}
    none = {key: 0 for key in limits if key.endswith("storage")}
    accounts = {
        system.name: operator.token(system, "account", limits=limits | none),
        account.name: operator.token(account, "account", limits=limits),
    }
    port = free_port()
    preload = ", ".join(f"{name}: {text}" for name, text in accounts.items())
    (tmp_path / "nats.conf").write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}/store" }}\n'
        f"operator: {operator.token(operator, 'operator')}\nsystem_account: {system.name}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {preload} }}\n"
    )
    files = []
    for who, signer in ((user, account), (stranger, stranger)):
        text = signer.token(who, "user", subs=-1, data=-1, payload=-1)
        path = tmp_path / f"{len(files)}.creds"
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{text}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{who.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        files.append(path)
    with (tmp_path / "nats.log").open("wb") as log:
        process = subprocess.Popen([nats_binary(), "-c", str(tmp_path / "nats.conf")], stderr=log)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            break
    yield f"nats://127.0.0.1:{port}", files[0], files[1]
    process.terminate()
    process.wait(10)


async def test_nats_with_a_credentials_file(nats_with_accounts: tuple[str, Path, Path], tmp_path: Path) -> None:
    url, ours, strangers = nats_with_accounts
    text = f"nats: {{mode: external, servers: ['{url}'], credentials: {ours}}}"
    settings = nats_settings(config(tmp_path, text))
    sink = NatsSink(settings)
    await sink.open()
    assert await sink.write([trades(1, 30)], "a") == 30
    await sink.close()
    found = await stream_records(settings, "trades-data.>")
    assert [record["sequence"] for record in found] == list(range(1, 31))
    with pytest.raises(SinkUnavailable, match="Authorization"):
        await NatsSink(NatsSettings((url,), credentials=strangers)).open()
    missing = tmp_path / "missing.creds"
    with pytest.raises(SinkUnavailable, match=r"missing\.creds"):
        await NatsSink(NatsSettings((url,), credentials=missing)).open()


@pytest.mark.parametrize("wrong", ["token", "authority"])
async def test_nats_that_refuses_us_is_named(
    secure_nats: str, authority: tuple[trustme.LeafCert, Path, Path], tmp_path: Path, wrong: str
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    settings = NatsSettings(
        (secure_nats,),
        token=SecretStr("wrong" if wrong == "token" else TOKEN),
        tls_ca=other if wrong == "authority" else authority[2],
    )
    with pytest.raises(SinkUnavailable) as caught:
        await NatsSink(settings).open()
    assert secure_nats in str(caught.value)
    assert ("Authorization" if wrong == "token" else "certificate verify failed") in str(caught.value)


async def test_clickhouse_over_https_with_user_and_password(
    secure_clickhouse: tuple[int, list[str]], authority: tuple[trustme.LeafCert, Path, Path], tmp_path: Path
) -> None:
    port, refused = secure_clickhouse
    text = (
        f"clickhouse: {{mode: external, host: 127.0.0.1, port: {port}, secure: true, user: {USER}, "
        f"tls_ca: {authority[2]}, database: archive}}"
    )
    settings = clickhouse_settings(config(tmp_path, text, CLICKHOUSE__PASSWORD=PASSWORD))
    sink = ClickHouseSink(settings)
    await sink.open()
    assert await sink.write([trades(1, 50)], "a") == 50
    await sink.close()
    store = await asyncio.to_thread(Store, settings)
    found = await asyncio.to_thread(store.trades, "okx_derivatives", "BTC-USDT-SWAP")
    assert found["sequence"].to_pylist() == list(range(1, 51))
    store.close()
    assert refused == []
    wrong = clickhouse_settings(config(tmp_path, text, CLICKHOUSE__PASSWORD="wrong"))
    with pytest.raises(SinkUnavailable, match=r"AUTHENTICATION_FAILED|Authentication failed"):
        await ClickHouseSink(wrong).open()
    assert refused


def test_secure_servers_have_their_own_default_port() -> None:
    assert clickhouse_settings(load(None, {})).port == 8123
    assert clickhouse_settings(load(None, {"MARKETPRISM_CLICKHOUSE__SECURE": "true"})).port == 8443


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 400 MB; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until the disk is full."""
    path = folder / "ballast"
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    for size in (1 << 20, 1 << 12, 1):
        with contextlib.suppress(OSError):
            while os.write(file, b"\0" * size) == size:
                pass
    os.close(file)
    return path


async def written(sink: Sink, batch: pa.RecordBatch) -> int:
    """Write as soon as the server takes it: it is started again when there is room."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await sink.write([batch], "b")
            except SinkUnavailable:
                await asyncio.sleep(0.1)


async def test_a_full_disk_is_waited_out_and_nothing_is_lost_or_doubled(small_disk: Path) -> None:
    with EmbeddedServers(small_disk / "data") as servers:
        settings = servers.clickhouse_settings()
        sink = ClickHouseSink(settings)
        await sink.open()
        assert await sink.write([trades(1, 1000)], "a") == 1000
        ballast = fill(small_disk)
        with pytest.raises(SinkUnavailable, match=r"space|No space|NOT_ENOUGH_SPACE"):
            await sink.write([trades(1001, 60_000)], "b")
        ballast.unlink()
        assert await written(sink, trades(1001, 60_000)) == 59_000
        await sink.close()
        store = Store(settings)
        assert store.trades("okx_derivatives", "BTC-USDT-SWAP")["sequence"].to_pylist() == list(range(1, 60_001))
        store.close()


async def test_a_full_disk_under_jetstream_is_waited_out_and_nothing_is_lost_or_doubled(small_disk: Path) -> None:
    with EmbeddedServers(small_disk / "data") as servers:
        with pytest.raises(SinkUnavailable, match=r"nats\.max_bytes is 10,737,418,240: lower it"):
            await NatsSink(servers.nats_settings()).open()
        sink = NatsSink(servers.nats_settings(max_bytes=100 << 20))
        await sink.open()
        assert await sink.write([trades(1, 1000)], "a") == 1000
        ballast = fill(small_disk)
        with pytest.raises(SinkUnavailable):
            await sink.write([trades(1001, 3000)], "b")
        ballast.unlink()
        await written(sink, trades(1001, 3000))
        found = await stream_records(sink.settings, "trades-data.>")
        assert [record["sequence"] for record in found] == list(range(1, 3001))
        await sink.close()


def test_a_data_directory_that_cannot_be_written_is_named(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    config_file = small_disk.parent / "c.yaml"
    config_file.write_text(
        f"system: {{data_dir: {small_disk}/data}}\nexchanges: {{okx_spot: {{symbols: [BTC-USDT]}}}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "marketprism_ray.cli", "up", str(config_file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ},
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert f"{small_disk}/data" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr
