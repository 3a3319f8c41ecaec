"""The ClickHouse HTTP interface over chDB, the engine in process: the embedded server.

Serves as much of the interface as clickhouse-connect, curl and SQL clients use: queries in the ``query`` parameter or
the body, inserts with data after the statement, bound parameters, settings, compressed bodies, error codes. Not
served: sessions, external data, multipart queries, progress headers. One process owns the data directory.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import queue
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame
import zstandard

from marketprism_ray.processes import die_with_parent

# Parameters of the interface itself; every other one is a setting of the query.
RESERVED = {
    *("database", "query", "query_id", "session_id", "session_timeout", "session_check", "quota_key", "role"),
    *("compress", "decompress", "enable_http_compression", "http_zlib_compression_level", "wait_end_of_query"),
    *("buffer_size", "send_progress_in_http_headers", "http_headers_progress_interval_ms", "user", "password"),
    *("client_protocol_version", "default_format", "stacktrace"),
}
_INSERT = re.compile(rb"\s*INSERT\s+INTO\s+(?P<target>.+?)\s+FORMAT\s+(?P<format>\w+)[ \t]*\r?\n?", re.I | re.S)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.I)
_CODE = re.compile(r"Code: (\d+)")
_STATUS = {60: 404, 81: 404, 516: 403, 62: 400, 47: 400, 36: 400, 16: 400, 53: 400, 27: 400}


def _quote(text: object) -> str:
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _decompress(body: bytes, encoding: str) -> bytes:
    match encoding:
        case "" | "identity":
            return body
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case "zstd":
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(body))
        case "lz4":
            return bytes(lz4.frame.decompress(body))
    raise ValueError(f"Content-Encoding {encoding!r} is not supported")


@contextlib.contextmanager
def _readable(data: memoryview) -> Iterator[str]:
    """Give the path of a file in memory that the engine, in this process, can read."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("insert")
        try:
            with open(file, "wb", closefd=False) as writer:
                writer.write(data)
            yield f"/proc/self/fd/{file}"
        finally:
            os.close(file)
    else:
        with tempfile.NamedTemporaryFile() as named:
            named.write(data)
            named.flush()
            yield named.name


class Engine:
    """One chDB engine and a pool of its connections. Settings and failures end with the connection that had them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        self._keep = chdb.connect(path)
        self.timezone = self._keep.query("SELECT timezone()", "TabSeparated").bytes().decode().strip()

    def close(self) -> None:
        """Close every connection."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()
        self._keep.close()

    def run(self, statement: str, body: bytes, parameters: dict[str, str]) -> tuple[bytes, str | None, dict[str, str]]:
        """Run one request; gives result, format (None if there is no result) and summary."""
        settings = {k: v for k, v in parameters.items() if k not in RESERVED and not k.startswith("param_")}
        bound = {k[6:]: v for k, v in parameters.items() if k.startswith("param_")}
        try:
            connection = self._free.get_nowait()
        except queue.Empty:
            connection = chdb.connect(self._path)
        reusable = False
        try:
            connection.query(f"USE `{parameters.get('database') or 'default'}`")
            text = statement.encode() + b"\n" + body if statement and body else statement.encode() or body
            insert = _INSERT.match(text)
            if insert and insert["format"].lower() != b"values":
                found = self._insert(connection, insert, text, settings)
            else:
                found = self._query(connection, text.decode(), settings, bound, parameters.get("default_format"))
            reusable = not settings
            return found
        finally:
            if reusable:
                self._free.put(connection)
            else:
                connection.close()

    def _insert(
        self, connection: Any, insert: re.Match[bytes], text: bytes, settings: dict[str, str]
    ) -> tuple[bytes, str | None, dict[str, str]]:
        data = memoryview(text)[insert.end() :]
        if not data:
            return b"", None, {"written_rows": "0", "read_rows": "0"}
        target, *own = re.split(r"\s+SETTINGS\s+", insert["target"].decode(), maxsplit=1, flags=re.I)
        given = ", ".join([*own, *(f"{key} = {_quote(value)}" for key, value in settings.items())])
        with _readable(data) as path:
            # Not the engine's streaming insert: that one reports success when the disk is full.
            result = connection.query(
                f"INSERT INTO {target} FROM INFILE {_quote(path)} COMPRESSION 'none'"
                f"{' SETTINGS ' + given if given else ''} FORMAT {insert['format'].decode()}"
            )
        return b"", None, {"written_rows": str(result.rows_read()), "read_rows": "0"}

    def _query(
        self, connection: Any, sql: str, settings: dict[str, str], bound: dict[str, str], default: str | None
    ) -> tuple[bytes, str | None, dict[str, str]]:
        for key, value in settings.items():
            connection.query(f"SET {key} = {_quote(value)}")
        named = _FORMAT.search(sql)
        wanted = named[1] if named else default
        # A line of names tells an empty result from a statement that has none.
        result = connection.query(sql, wanted or "TabSeparatedWithNames", params=bound or None)
        data: bytes = result.bytes() or b""
        summary = {"read_rows": str(result.rows_read()), "read_bytes": str(result.bytes_read()), "written_rows": "0"}
        if wanted:
            return data, wanted, summary
        return (data[data.find(b"\n") + 1 :], "TabSeparated", summary) if data else (b"", None, summary)


class Server(ThreadingHTTPServer):
    """HTTP on loopback over one engine."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, port: int = 0, password: str = "") -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.engine = Engine(path)
        self.password = password


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Server

    def log_message(self, *_: Any) -> None:
        """Say nothing per request."""

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        fixed = {
            "Content-Length": str(len(body)),
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Server-Display-Name": "embedded",
            "X-ClickHouse-Timezone": self.server.engine.timezone,
        }
        for name, value in {**fixed, **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return _decompress(body, self.headers.get("Content-Encoding", ""))

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        body = self._body()
        if url.path in ("/ping", "/replicas_status"):
            return self._answer(200, b"Ok.\n")
        identity = parameters.get("query_id") or str(uuid.uuid4())
        begin = time.perf_counter_ns()
        try:
            result, name, summary = self.server.engine.run(parameters.get("query", ""), body, parameters)
        except Exception as error:  # noqa: BLE001 - the edge of a request: the engine raises plain Exception
            text = str(error)
            text = text[text.find("Code: ") :] if "Code: " in text else f"Code: 1002. {text}"
            code = int((_CODE.search(text) or ["", "1002"])[1])
            return self._answer(
                _STATUS.get(code, 500), (text.rstrip() + "\n").encode(), X_ClickHouse_Exception_Code=str(code)
            )
        summary["elapsed_ns"] = str(time.perf_counter_ns() - begin)
        headers = {"X_ClickHouse_Query_Id": identity, "X_ClickHouse_Summary": json.dumps(summary)}
        if name:
            headers["X_ClickHouse_Format"] = name
        return self._answer(200, result, **headers)

    do_POST = do_GET


def main() -> None:
    """Serve until SIGTERM; print one JSON line when ready."""
    parser = argparse.ArgumentParser(description="ClickHouse HTTP interface over chDB, on loopback.")
    parser.add_argument("--path", required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    die_with_parent()
    try:
        server = Server(arguments.path, arguments.port)
    except OSError as error:
        sys.exit(f"port {arguments.port}: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - the engine raises plain Exception: taken or unreadable directory
        sys.exit(f"{arguments.path}: {error}")
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever(poll_interval=0.1)
    server.engine.close()


if __name__ == "__main__":
    main()
