"""Strangers at the doors of the embedded servers: wrong passwords, foreign hosts, large and slow requests, readers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from pydantic import SecretStr
from test_encoding import trade

from marketprism_ray import bounded_http, clickhouse_http
from marketprism_ray.config import dump, load, validate
from marketprism_ray.credentials import Credentials, read_private, write_private
from marketprism_ray.errors import ConfigError, MarketPrismError, SinkUnavailable
from marketprism_ray.query import Store, stream_records, tail
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.sinks.clickhouse import ClickHouseSink
from marketprism_ray.sinks.nats import NatsSettings, NatsSink, connect
from marketprism_ray.sinks.settings import published

Answer = tuple[int, str]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="module")
def secrets(servers: EmbeddedServers) -> Credentials:
    return Credentials.read(servers.data_dir)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


@pytest.fixture
def ask(servers: EmbeddedServers) -> Callable[..., Answer]:
    def send(method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", servers.clickhouse_port, timeout=60)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return send


ONE = "/?query=SELECT%201"


def test_without_the_right_password_in_one_header_nothing_is_answered(
    ask: Callable[..., Answer], secrets: Credentials
) -> None:
    right = secrets.clickhouse_reader
    assert ask("GET", ONE, **basic("reader", right)) == (200, "1\n")
    assert ask("GET", ONE, X_ClickHouse_User="reader", X_ClickHouse_Key=right) == (200, "1\n")
    refused: list[tuple[str, dict[str, str]]] = [
        (ONE, {}),
        (ONE, basic("reader", "")),
        (ONE, basic("reader", "wrong")),
        (ONE, basic("default", "")),
        (ONE, basic("default", right)),
        (ONE, basic("writer", right)),
        (ONE, basic("READER", right)),
        (ONE, {"Authorization": "Bearer " + right}),
        (ONE, {"Authorization": "Basic !!!"}),
        (ONE, {"Authorization": "Basic " + base64.b64encode(b"\xff\xff").decode()}),
        (ONE, {"X_ClickHouse_Key": right}),
        (ONE, {"X_ClickHouse_User": "reader"}),
        (ONE, {**basic("reader", right), "X_ClickHouse_User": "writer"}),
        (f"{ONE}&user=reader&password={right}", {}),
        (f"{ONE}&user=writer", basic("reader", right)),
        (f"{ONE}&role=writer", basic("reader", right)),
    ]
    for path, headers in refused:
        status, text = ask("GET", path, **headers)
        assert (status, text[:9]) == (403, "Code: 516"), (path, headers)
        assert right not in text


def test_pages_in_browsers_and_names_that_are_not_ours_are_refused(
    ask: Callable[..., Answer], secrets: Credentials
) -> None:
    right = basic("reader", secrets.clickhouse_reader)
    for host in ("localhost", "localhost:1", "127.0.0.1", "[::1]:8123"):
        assert ask("GET", ONE, Host=host, **right)[0] == 200, host
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "127.0.0.1@evil.example",
        "",
        "[",
    ):
        assert ask("GET", ONE, Host=host, **right)[0] == 403, host
        assert ask("GET", "/ping", Host=host)[0] == 403, host
    for origin in ("http://evil.example", "http://localhost", "null"):
        assert ask("POST", "/", b"SELECT 1", Origin=origin, **right)[0] == 403, origin
    assert ask("GET", "/ping") == (200, "Ok.\n")


def test_get_reads_and_post_changes_for_the_writer_only(ask: Callable[..., Answer], secrets: Credentials) -> None:
    reader, writer = basic("reader", secrets.clickhouse_reader), basic("writer", secrets.clickhouse_writer)
    create = b"CREATE TABLE IF NOT EXISTS door (a Int64) ENGINE = MergeTree ORDER BY a"
    for method, who in (("GET", reader), ("POST", reader), ("GET", writer), ("PUT", writer), ("HEAD", writer)):
        assert ask(method, "/", create, **who)[0] in (403, 501), (method, who)
    assert ask("POST", "/", create, **writer)[0] == 200
    assert ask("GET", "/?query=INSERT+INTO+door+FORMAT+CSV", b"1\n", **writer)[0] == 403
    assert ask("POST", "/?query=INSERT+INTO+door+FORMAT+CSV", b"1\n", **reader)[0] == 403
    assert ask("POST", "/?query=INSERT+INTO+door+FORMAT+CSV", b"1\n", **writer)[0] == 200
    # A statement in two halves is one statement.
    assert ask("POST", "/?query=SELECT+1;", b"DROP TABLE door", **writer)[0] == 400
    assert ask("POST", "/?query=SELECT+1+--", b"\nINTO OUTFILE '/tmp/never'", **writer)[0] == 403
    assert ask("POST", "/?query=SELECT+count()+FROM+door&query=DROP+TABLE+door", **writer)[0] == 403
    assert ask("POST", "/?readonly=0", b"SELECT 1", **reader)[0] == 200
    assert ask("POST", "/?readonly=0", b"DROP TABLE door", **reader)[0] == 403
    assert ask("POST", "/?allow_ddl=1", b"SELECT 1", **reader)[0] == 403
    assert ask("POST", "/?a%20%3D%201,%20readonly=0", b"SELECT 1", **writer)[0] == 403
    assert ask("POST", "/?database=default`;DROP+TABLE+door--", b"SELECT 1", **writer)[0] == 403
    assert ask("POST", "/?param_x=1%27;DROP+TABLE+door", b"SELECT {x:String}", **writer) == (
        200,
        "1\\';DROP TABLE door\n",
    )
    assert ask("GET", "/?query=SELECT+count()+FROM+door", **reader) == (200, "1\n")


def test_a_query_id_ends_no_header(ask: Callable[..., Answer], servers: EmbeddedServers, secrets: Credentials) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", servers.clickhouse_port, timeout=60)
    connection.request(
        "GET", f"{ONE}&query_id=a%0d%0aSet-Cookie:%20x=y", headers=basic("reader", secrets.clickhouse_reader)
    )
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.headers["Set-Cookie"] is None
    connection.close()


def test_bodies_are_bounded_packed_and_unpacked(ask: Callable[..., Answer], secrets: Credentials) -> None:
    reader = basic("reader", secrets.clickhouse_reader)
    bomb = gzip.compress(b" " * (clickhouse_http.QUERY_BYTES + 1), 9)
    assert ask("POST", "/", bomb, Content_Encoding="gzip", **reader)[0] == 413
    assert ask("POST", "/", Content_Length=str(clickhouse_http.QUERY_BYTES + 1), **reader)[0] == 413
    for length in ("-1", "1e9", "0x10"):
        assert ask("POST", "/", Content_Length=length, **reader)[0] in (400, 413), length
    assert ask("POST", "/", b"zz\r\n", Transfer_Encoding="chunked", **reader)[0] == 400
    assert ask("POST", "/", b"-5\r\n", Transfer_Encoding="chunked", **reader)[0] in (400, 413)
    assert ask("POST", "/", b"junk", Content_Encoding="gzip", **reader)[0] == 400
    assert ask("POST", "/", b"SELECT 1", Content_Encoding="br", **reader)[0] == 400
    # Nothing of a stranger's body is read.
    assert ask("POST", "/", Content_Length=str(1 << 40))[0] == 403


def test_strangers_who_say_nothing_keep_nobody_out(ask: Callable[..., Answer], servers: EmbeddedServers) -> None:
    silent = [socket.create_connection(("127.0.0.1", servers.clickhouse_port)) for _ in range(200)]
    try:
        for number, one in enumerate(silent):
            with_some = b"GET / HTTP/1.1\r\nHost: localhost\r\n" if number % 2 else b"G"
            try:
                one.sendall(with_some)
            except OSError:
                continue  # it has made room for a later one
        password = Credentials.read(servers.data_dir).clickhouse_reader
        for _ in range(5):
            assert ask("GET", ONE, **basic("reader", password)) == (200, "1\n")
        pid = servers.state()["clickhouse"]["pid"]
        threads = len(os.listdir(f"/proc/{pid}/task"))
        assert threads < bounded_http.STRANGERS + 150, "the engine's own and the strangers'"
    finally:
        for one in silent:
            one.close()


def test_a_stranger_has_little_time_in_all_however_he_spends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    reader = bounded_http._TimedReader(ours)
    times = iter([0.0, 4.0, 9.0, 10.5])
    monkeypatch.setattr(bounded_http.time, "monotonic", lambda: next(times))
    reader.until = 10.0
    theirs.sendall(b"abcdef")
    got = [reader.read(1) for _ in range(3)]
    assert got == [b"a", b"b", b"c"]
    with pytest.raises(TimeoutError, match="over"):
        reader.read(1)
    ours.close()
    theirs.close()


async def test_the_reader_of_nats_reads_and_changes_nothing(servers: EmbeddedServers) -> None:
    sink = NatsSink(servers.nats_settings())
    await sink.open()
    await sink.write([batch_from_records([trade(trade_id=str(n), sequence=n) for n in range(1, 6)])], "a")
    settings = servers.nats_settings("reader")
    found = await stream_records(settings, "trades-data.>")
    assert [record["sequence"] for record in found] == [1, 2, 3, 4, 5]
    said: list[str] = []

    async def note(error: Exception) -> None:
        said.append(str(error))

    client = await connect(settings, error_cb=note)
    stream = client.jetstream(timeout=0.5)
    name = settings.stream
    attempts: dict[str, Callable[[], Any]] = {
        "publish": lambda: stream.publish("trades-data.okx_spot.spot.BTC-USDT", b"{}"),
        "purge": lambda: stream.purge_stream(name),
        "delete": lambda: stream.delete_stream(name),
        "delete a message": lambda: stream.delete_msg(name, 1),
        "update": lambda: stream.update_stream(name=name, subjects=["trades-data.>"], max_msgs=1),
        "add": lambda: stream.add_stream(name="OTHER", subjects=["other.>"]),
        "end a consumer": lambda: stream.delete_consumer(name, "somebody"),
    }
    for what, attempt in attempts.items():
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await attempt()
        async with asyncio.timeout(10):
            while not any("permissions violation" in text for text in said):  # noqa: ASYNC110 - the server says it
                await asyncio.sleep(0.01)
        assert said.pop().count("permissions violation") == 1, what
        said.clear()
    # A consumer that delivers to a request of the server itself makes no request.
    for subject in (f"$JS.API.STREAM.PURGE.{name}", f"$JS.API.STREAM.DELETE.{name}"):
        evil = ConsumerConfig(deliver_subject=subject, ack_policy=AckPolicy.NONE, inactive_threshold=5)
        await stream.add_consumer(name, evil)
    forged = ConsumerConfig(deliver_subject="trades-data.x.y.z", ack_policy=AckPolicy.NONE)
    with pytest.raises(nats.js.errors.BadRequestError):
        await stream.add_consumer(name, forged)
    await client.close()
    assert len(await stream_records(settings, "trades-data.>")) == 5
    await sink.close()


async def test_nats_knows_nobody_without_a_password(servers: EmbeddedServers) -> None:
    for given in ({}, {"user": "writer"}, {"user": "writer", "password": SecretStr("x")}, {"token": SecretStr("x")}):
        with pytest.raises(SinkUnavailable, match="Authorization Violation"):
            await connect(NatsSettings((servers.nats_url,), **given))  # type: ignore[arg-type]


async def test_readers_of_ours_use_the_readers_password(servers: EmbeddedServers) -> None:
    sink, store = ClickHouseSink(servers.clickhouse_settings()), None
    await sink.open()
    await sink.write([batch_from_records([trade()])], "a")
    store = Store(servers.clickhouse_settings("reader"))
    assert store.counts()["trade"] == 1
    assert store.query("SELECT count() AS n FROM trade SETTINGS final = 0")["n"].to_pylist() == [1]
    with pytest.raises(MarketPrismError, match="READONLY"):
        store.query("DROP TABLE trade")
    store.close()
    stream = NatsSink(servers.nats_settings())
    await stream.open()
    async with asyncio.timeout(20), contextlib.aclosing(tail(servers.nats_settings("reader"), ">")) as reading:
        first = asyncio.ensure_future(anext(reading))
        number = 0
        while not first.done():
            number += 1
            await stream.write([batch_from_records([trade(trade_id=f"t{number}")])], f"t{number}")
        await first
    await stream.close()
    await sink.close()


def test_secrets_are_in_private_files_and_nowhere_else(servers: EmbeddedServers, secrets: Credentials) -> None:
    values = [*vars(secrets).values()]
    assert len(set(values)) == 4
    for file in servers.data_dir.iterdir():
        if file.is_file() and any(value in file.read_text(errors="replace") for value in values):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
            assert file.name in ("credentials.json", "nats.conf")
    # What lies in the databases is for those who have a password as well.
    assert [stat.S_IMODE((servers.data_dir / name).stat().st_mode) for name in ("clickhouse", "nats")] == [0o700] * 2
    for pid in [servers.state()["supervisor"], *(servers.state()[name]["pid"] for name in ("nats", "clickhouse"))]:
        for what in ("cmdline", "environ"):
            seen = Path(f"/proc/{pid}/{what}").read_bytes()
            assert not any(value.encode() in seen for value in values), (pid, what)
    assert not any(value in repr(secrets) for value in values)


def test_servers_listen_on_loopback_only(servers: EmbeddedServers) -> None:
    for name in ("nats", "clickhouse"):
        port = servers.state()[name]["port"]
        lines = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
        assert [line.split()[3] for line in lines.splitlines()] == [f"127.0.0.1:{port}"]


def test_each_start_has_passwords_of_its_own(tmp_path: Path, secrets: Credentials) -> None:
    with EmbeddedServers(tmp_path, clickhouse=None) as own:
        assert Credentials.read(own.data_dir) != secrets
    with pytest.raises(ConfigError, match=r"credentials\.json"):
        Credentials.read(tmp_path)


def test_a_private_file_is_private_from_its_first_byte_and_refused_if_others_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    before = os.umask(0)
    try:
        write_private(path, "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private(path) == "x"
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_private(path)
    link = tmp_path / f"other.{os.getpid()}.new"
    link.symlink_to(tmp_path / "elsewhere")
    write_private(tmp_path / "other", "y")
    assert not (tmp_path / "elsewhere").exists()


URLS = {
    "MARKETPRISM_NATS__SERVERS": "[nats://me:hunter2@a:1]",
    "MARKETPRISM_NETWORKING__PROXY": "http://me:hunter2@p:1",
    "MARKETPRISM_NATS__PASSWORD": "hunter2",
    "MARKETPRISM_NATS__TOKEN": "hunter2",
    "MARKETPRISM_CLICKHOUSE__PASSWORD": "hunter2",
    "MARKETPRISM_NETWORKING__PROXY_PASSWORD": "hunter2",
    "MARKETPRISM_NETWORKING__PROXY_USER": "me",
}


def test_secrets_are_shown_nowhere_also_not_inside_urls() -> None:
    config = load(None, URLS)
    settings = NatsSettings(config.nats.servers, password=config.nats.password, token=config.nats.token)
    shown = [repr(config), str(config), dump(config), repr(settings), settings.address]
    assert [text for text in shown if "hunter2" in text] == []
    assert "<redacted>@a:1" in dump(config)


def test_what_a_running_system_publishes_holds_no_secret() -> None:
    from marketprism_ray.sinks.settings import clickhouse_settings, nats_settings

    config = load(None, {**URLS, "MARKETPRISM_NATS__MODE": "external", "MARKETPRISM_CLICKHOUSE__MODE": "external"})
    assert "hunter2" not in json.dumps(published(config, nats_settings(config), clickhouse_settings(config)))


def test_an_error_about_a_secret_does_not_tell_it() -> None:
    for values in (
        {"nats": {"password": ["hunter2"]}},
        {"clickhouse": {"password": {"a": "hunter2"}}},
        {"networking": {"proxy": "ftp://me:hunter2@p:1"}},
        {"nats": {"servers": {"nats://me:hunter2@a": 1}}},
    ):
        with pytest.raises(ConfigError) as error:
            validate(values, "test")
        assert "hunter2" not in str(error.value)
        assert error.value.__cause__ is None


async def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(SinkUnavailable) as error:
        await connect(NatsSettings(("nats://me:hunter2@127.0.0.1:9",)))
    assert "hunter2" not in str(error.value)
    assert "127.0.0.1:9" in str(error.value)
