"""Sockets and HTTP through real local proxies, with a user and a password."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from test_connection import config, is_live, until

from marketprism_ray.config import validate
from marketprism_ray.errors import ConfigError, TransportError
from marketprism_ray.rest import RestClient, RestSettings
from marketprism_ray.session import Session, Shard
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.venues import VENUES

USER, PASSWORD = "me", "p@ss:word"


class Proxy:
    """An HTTP and SOCKS5 proxy that wants a password and counts who passes."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.refused = 0
        self.port = 0

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, first: bytes = b""
    ) -> None:
        there, back = await asyncio.open_connection(host, port)
        back.write(first)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await (self._socks if first == b"\x05" else self._http)(first, reader, writer)
        writer.close()

    async def _http(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = first + await reader.readuntil(b"\r\n\r\n")
        wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if f"Basic {wanted}" not in head.decode():
            self.refused += 1
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        method, target, _ = head.decode().split(" ", 2)
        if method == "CONNECT":
            host, _, port = target.partition(":")
            self.passed.append("CONNECT")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await self._join(reader, writer, host, int(port))
        else:
            url = urlsplit(target)
            self.passed.append("GET")
            assert url.hostname is not None
            await self._join(
                reader,
                writer,
                url.hostname,
                url.port or 80,
                head.replace(target.encode(), target[len(f"http://{url.netloc}") :].encode(), 1),
            )

    async def _socks(self, _: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly((await reader.readexactly(1))[0])
        writer.write(b"\x05\x02")
        await reader.readexactly(1)
        user = await reader.readexactly((await reader.readexactly(1))[0])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        if (user.decode(), password.decode()) != (USER, PASSWORD):
            self.refused += 1
            writer.write(b"\x01\x01")
            return
        writer.write(b"\x01\x00")
        _, _, _, kind = await reader.readexactly(4)
        raw = await reader.readexactly(4 if kind == 1 else (await reader.readexactly(1))[0])
        host = ".".join(map(str, raw)) if kind == 1 else raw.decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.passed.append("SOCKS5")
        writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        await self._join(reader, writer, host, port)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    running = Proxy()
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0)
    running.port = server.sockets[0].getsockname()[1]
    yield running
    server.close()


@pytest.mark.parametrize(("scheme", "ways"), [("http", {"CONNECT", "GET"}), ("socks5", {"SOCKS5"})])
async def test_sockets_and_rest_go_through_the_proxy(proxy: Proxy, scheme: str, ways: set[str]) -> None:
    simulator = Simulator(("binance_spot",), rate=200)
    await simulator.start()
    shard = Shard("b", "binance_spot", (("trade", "BTC-USDT"), ("orderbook", "BTC-USDT")))
    url = f"{scheme}://127.0.0.1:{proxy.port}"
    session = Session(shard, config(simulator.endpoints(), proxy=url, proxy_user=USER, proxy_password=PASSWORD))
    await session.start()
    await until(lambda: is_live(session))
    assert set(proxy.passed) == ways
    await session.stop()
    await simulator.stop()


async def test_a_wrong_password_is_reported_and_tried_again_not_given_up(proxy: Proxy) -> None:
    simulator = Simulator(("binance_spot",), rate=200)
    await simulator.start()
    endpoints = simulator.endpoints()
    session = Session(
        Shard("b", "binance_spot", (("trade", "BTC-USDT"),)),
        config(endpoints, proxy=f"http://127.0.0.1:{proxy.port}", proxy_user=USER, proxy_password="wrong"),
    )
    session.rest.settings = type(session.rest.settings)()  # instruments directly, so that the socket is what fails
    await session.start()
    (connection,) = session.connections
    await until(lambda: connection.counts["failures"] >= 2)
    assert "407" in connection.last_error or "proxy" in connection.last_error.lower()
    assert PASSWORD not in connection.last_error
    assert proxy.refused >= 2
    await session.stop()
    await simulator.stop()


def test_a_proxy_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ConfigError, match="socks5://host:port"):
        validate({"networking": {"proxy": "ftp://x"}}, "f")


async def test_a_refused_socks_login_is_a_named_error_of_rest(proxy: Proxy) -> None:
    client = RestClient(
        VENUES["binance_spot"],
        "http://127.0.0.1:9",
        RestSettings(attempts=1, proxy=f"socks5://{USER}:wrong@127.0.0.1:{proxy.port}"),
    )
    await client.open()
    with pytest.raises(TransportError, match=r"binance_spot: GET /api/v3/exchangeInfo: .*Proxy"):
        await client.get(VENUES["binance_spot"].instrument_requests[0])
    assert client.counts["failures"] == 1
    await client.close()


async def test_loopback_uses_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    simulator = Simulator(("binance_spot",), rate=200)
    await simulator.start()
    session = Session(Shard("b", "binance_spot", (("orderbook", "BTC-USDT"),)), config(simulator.endpoints()))
    await session.start()
    await until(lambda: is_live(session))
    await session.stop()
    await simulator.stop()
