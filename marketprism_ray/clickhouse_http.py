"""The ClickHouse HTTP interface over chDB, the engine in process: the embedded server.

Serves as much of the interface as clickhouse-connect, curl and SQL clients use: queries in the ``query`` parameter or
the body, inserts with data after the statement, bound parameters, settings, compressed bodies, error codes. Not
served: sessions (``SET``, ``USE``), external data, multipart queries, progress headers. One process owns the data
directory.

Who may do what: chDB has no users, so two are made here. ``writer`` may change the store by POST, ``reader`` only
reads; `statements` says what neither may, over the text that the engine itself makes of a statement, and the reader's
connections are ``readonly`` in the engine as well. A request is refused before its body is read if its password is
wrong, if its ``Host`` is no name of loopback, or if a browser sent it for a page (``Origin``).
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import gzip
import hmac
import io
import json
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame
import zstandard

from marketprism_ray.bounded_http import BoundedServer, TimedHandler
from marketprism_ray.credentials import READER, WRITER, Credentials
from marketprism_ray.errors import ConfigError
from marketprism_ray.processes import die_with_parent
from marketprism_ray.statements import (
    ACCESS_DENIED,
    READONLY,
    Denied,
    Role,
    Statement,
    check,
    check_database,
    check_setting,
    denied_words,
)

# Parameters of the interface itself; every other one is a setting of the query.
RESERVED = {
    *("database", "query", "query_id", "session_id", "session_timeout", "session_check", "quota_key", "role"),
    *("compress", "decompress", "enable_http_compression", "http_zlib_compression_level", "wait_end_of_query"),
    *("buffer_size", "send_progress_in_http_headers", "http_headers_progress_interval_ms"),
    *("client_protocol_version", "default_format", "stacktrace"),
}
AUTHENTICATION_FAILED = 516
HOSTS = {"localhost", "127.0.0.1", "[::1]"}
BODY_BYTES = 512 << 20
"""Of a writer's request, packed and unpacked."""
QUERY_BYTES = 8 << 20
"""Of a reader's request, packed and unpacked."""
READER_LIMITS = {"max_execution_time": "300", "max_memory_usage": str(4 << 30)}
SHORT_BYTES = 8 << 20
"""With less free disk nothing is merged any more."""
DISK_LOOK_S = 0.05
POOL = 16
"""Connections of the engine that wait for the next request with the same settings."""

_HEAD = re.compile(rb"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*INSERT\s+INTO\b", re.I | re.S)
_DATA = re.compile(
    rb"--[^\n]*|/\*.*?\*/|'(?:\\.|''|[^'\\])*'|`(?:\\.|``|[^`\\])*`|\"(?:\\.|[^\"\\])*\""
    rb"|\b(?P<select>SELECT)\b|\b(?P<values>VALUES)\b[ \t\r\n]*|\bFORMAT\s+(?P<format>\w+)[ \t]*\r?\n?",
    re.I | re.S,
)
_INSERT = re.compile(r"INSERT INTO (?P<target>.+?)( SETTINGS (?P<settings>.+?))? FORMAT (?P<format>\w+)", re.S)
_FORMAT = re.compile(r"\bFORMAT (\w+)( SETTINGS .*)?$", re.S)
_CODE = re.compile(r"Code: (\d+)")
_STATUS = {60: 404, 81: 404, 62: 400, 47: 400, 36: 400, 16: 400, 53: 400, 27: 400}
_STATUS |= {AUTHENTICATION_FAILED: 403, ACCESS_DENIED: 403, READONLY: 403}


def _quote(text: object) -> str:
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


class TooLarge(Exception):
    """A body of more bytes than its sender may send."""


def _unpack(stream: Any, body: bytes, limit: int) -> bytes:
    """Read a decompressor's output up to a limit: a few bytes can hold gigabytes."""
    with stream:
        data: bytes = stream.read(limit + 1)
    if len(data) > limit:
        raise TooLarge(f"{len(body)} bytes hold more than {limit}")
    return data


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    packed = io.BytesIO(body)
    match encoding:
        case "" | "identity":
            return body
        case "gzip":
            return _unpack(gzip.GzipFile(fileobj=packed), body, limit)
        case "deflate":
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(body, limit)
            if unpacker.unconsumed_tail:
                raise TooLarge(f"{len(body)} bytes hold more than {limit}")
            return data
        case "zstd":
            return _unpack(zstandard.ZstdDecompressor().stream_reader(packed), body, limit)
        case "lz4":
            return _unpack(lz4.frame.LZ4FrameFile(packed), body, limit)
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


def split_insert(text: bytes) -> tuple[bytes, str, memoryview] | None:
    """Part an insert from its data; None if it has none.

    Where this errs, the statement is still judged without the data, and the data is only ever read as data.

    Returns
    -------
    tuple
        Statement up to the data, the data's format, the data.
    """
    if not _HEAD.match(text):
        return None
    for found in _DATA.finditer(text):
        if found["select"]:
            return None
        if found["values"]:
            return text[: found.start()] + b" FORMAT Values", "Values", memoryview(text)[found.end() :]
        if found["format"]:
            return text[: found.end()], found["format"].decode(), memoryview(text)[found.end() :]
    return None


class Engine:
    """One chDB engine and its connections, each with settings that stay with it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._free: dict[tuple[tuple[str, str], ...], list[Any]] = {}
        self._idle = 0
        self._lock = threading.Lock()
        self._keep = chdb.connect(path)
        self._parser: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._parser.put(chdb.connect(path))
        self.timezone = self._ask("SELECT timezone()")[0]
        names = "SELECT name FROM system."
        self._denied = denied_words(self._ask(f"{names}table_functions"), self._ask(f"{names}functions"))

    def _ask(self, sql: str) -> list[str]:
        lines: list[str] = self._keep.query(sql, "TabSeparatedRaw").bytes().decode().splitlines()
        return lines

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for free in self._free.values():
                for connection in free:
                    connection.close()
            self._free.clear()
        self._keep.close()

    def mind_disk(self, ended: threading.Event) -> None:
        """Watch the disk; when it is full, merge no more and say so, once: then the supervisor starts us again.

        The engine commits a merge whose files could not be written, and reads what is not there from then on (code
        246). When it starts it compares sizes, and takes the parts again that were merged.
        """
        while not ended.wait(DISK_LOOK_S):
            if shutil.disk_usage(self._path).free < SHORT_BYTES:
                break
        else:
            return
        sys.stderr.write(f"{self._path}: no space left on device: merging stops until the next start\n")
        sys.stderr.flush()
        connection = chdb.connect(self._path)
        connection.query("SYSTEM STOP MERGES")
        connection.close()

    def _take(self, settings: tuple[tuple[str, str], ...]) -> Any:
        """Give a connection that has these settings."""
        with self._lock:
            if free := self._free.get(settings):
                self._idle -= 1
                return free.pop()
        connection = chdb.connect(self._path)
        for name, value in settings:
            connection.query(f"SET {name} = {_quote(value)}")
        return connection

    def _give(self, settings: tuple[tuple[str, str], ...], connection: Any) -> None:
        with self._lock:
            if self._idle < POOL:
                self._idle += 1
                self._free.setdefault(settings, []).append(connection)
                return
        connection.close()

    def format(self, text: str) -> str:
        """Let the engine parse a statement and write it down in its own words.

        Raises
        ------
        Exception
            The engine's own, if it is none, or more than one.
        """
        parser = self._parser.get()
        try:
            result = parser.query(f"SELECT formatQuerySingleLine({_quote(text)})", "TabSeparatedRaw")
            formatted: str = result.bytes().decode().removesuffix("\n")
            return formatted
        finally:
            self._parser.put(parser)

    def run(
        self, statement: str, body: bytes, parameters: Mapping[str, str], role: Role, *, only_read: bool
    ) -> tuple[bytes, str | None, dict[str, str]]:
        """Run one request; gives result, format (None if there is no result) and summary.

        Raises
        ------
        Denied
            If its user may not.
        """
        settings = {k: v for k, v in parameters.items() if k not in RESERVED and not k.startswith("param_")}
        bound = {k[6:]: v for k, v in parameters.items() if k.startswith("param_")}
        database = parameters.get("database") or "default"
        check_database(database, role)
        # Anybody may ask for less than is allowed.
        only_read = settings.pop("readonly", "") in ("1", "2") or only_read
        for name in settings:
            check_setting(name, role)
        text = statement.encode() + b"\n" + body if statement and body else statement.encode() or body
        parted = split_insert(text)
        source = text if parted is None else parted[0]
        judged = check(self.format(source.decode()), role, only_read=only_read, denied=self._denied, bound=bound)
        if role == READER:
            settings |= READER_LIMITS
        if judged.is_read and (only_read or role == READER):
            # In the engine as well. Its level 1 also refuses a SETTINGS clause, and those are judged above; and it
            # calls every setting unchangeable, which clients that look at them believe.
            settings["readonly"] = "2" if judged.has_settings or "system.settings" in judged.text else "1"
        own = tuple(settings.items()) if parted is None else ()
        connection = self._take(own)
        reusable = False
        try:
            connection.query(f"USE `{database}`")
            if parted is not None:
                found = self._insert(connection, judged, parted[2], settings)
            else:
                found = self._query(connection, judged.text, bound, parameters.get("default_format"))
            reusable = True
            return found
        finally:
            if reusable:
                self._give(own, connection)
            else:
                connection.close()

    def _insert(
        self, connection: Any, judged: Statement, data: memoryview, settings: Mapping[str, str]
    ) -> tuple[bytes, str | None, dict[str, str]]:
        parts = _INSERT.fullmatch(judged.text)
        if parts is None:
            raise Denied(ACCESS_DENIED, f"an insert with data of another form: {judged.text[:100]}")
        if not data:
            return b"", None, {"written_rows": "0", "read_rows": "0"}
        given = [parts["settings"]] if parts["settings"] else []
        given += [f"{key} = {_quote(value)}" for key, value in settings.items()]
        # Values are values: an expression among them could call whatever the rules keep out.
        given.append("input_format_values_interpret_expressions = 0")
        with _readable(data) as path:
            # Not the engine's streaming insert: that one reports success when the disk is full.
            result = connection.query(
                f"INSERT INTO {parts['target']} FROM INFILE {_quote(path)} COMPRESSION 'none'"
                f" SETTINGS {', '.join(given)} FORMAT {parts['format']}"
            )
        return b"", None, {"written_rows": str(result.rows_read()), "read_rows": "0"}

    def _query(
        self, connection: Any, sql: str, bound: Mapping[str, str], default: str | None
    ) -> tuple[bytes, str | None, dict[str, str]]:
        named = _FORMAT.search(sql)
        wanted = named[1] if named else default
        # A line of names tells an empty result from a statement that has none.
        result = connection.query(sql, wanted or "TabSeparatedWithNames", params=dict(bound) or None)
        data: bytes = result.bytes() or b""
        summary = {"read_rows": str(result.rows_read()), "read_bytes": str(result.bytes_read()), "written_rows": "0"}
        if wanted:
            return data, wanted, summary
        return (data[data.find(b"\n") + 1 :], "TabSeparated", summary) if data else (b"", None, summary)


class Server(BoundedServer):
    """HTTP on loopback over one engine."""

    def __init__(self, path: str, credentials: Credentials, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.engine = Engine(path)
        self.credentials = credentials


class _Handler(TimedHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Server

    def log_message(self, *_: Any) -> None:
        """Say nothing per request."""

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.answered()
        self.send_response(status)
        fixed = {
            "Content-Length": str(len(body)),
            "Content-Type": "text/plain; charset=UTF-8",
            "X-Content-Type-Options": "nosniff",
            "X-ClickHouse-Server-Display-Name": "embedded",
            "X-ClickHouse-Timezone": self.server.engine.timezone,
        }
        for name, value in {**fixed, **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: int, text: str) -> None:
        """Answer without having read the body, and hang up."""
        self.close_connection = True
        body = f"Code: {code}. DB::Exception: {text}\n".encode()
        self._answer(status, body, Connection="close", X_ClickHouse_Exception_Code=str(code))

    def _body(self, limit: int) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts, left = [], limit
            while size := int(self.rfile.readline(100).split(b";")[0], 16):
                left -= size
                if left < 0 or size < 0:
                    raise TooLarge(f"more than {limit} bytes")
                parts.append(self.rfile.read(size))
                self.rfile.readline(100)
            self.rfile.readline(100)
            body = b"".join(parts)
        else:
            size = int(self.headers.get("Content-Length") or 0)
            if not 0 <= size <= limit:
                raise TooLarge(f"{size} bytes, {limit} are taken")
            body = self.rfile.read(size)
        return _decompress(body, self.headers.get("Content-Encoding", ""), limit)

    def _is_local(self) -> bool:
        """Tell whether the request names us by a name of loopback, and comes from no page in a browser."""
        hosts = self.headers.get_all("Host") or []
        host = re.fullmatch(r"(\[[0-9a-f:]+\]|[^:]+)(:\d+)?", hosts[0].lower()) if len(hosts) == 1 else None
        return host is not None and host[1] in HOSTS and self.headers.get("Origin") is None

    def _role(self, parameters: Mapping[str, str]) -> Role | None:
        """Give whose password came with the request; None if it is nobody's, or came in more than one way."""
        found: list[tuple[str, str]] = []
        for value in self.headers.get_all("Authorization") or []:
            kind, _, text = value.partition(" ")
            try:
                user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            found.append((user, password if kind.lower() == "basic" else ""))
        users = self.headers.get_all("X-ClickHouse-User") or []
        keys = self.headers.get_all("X-ClickHouse-Key") or []
        if users or keys:
            found.append((users[0], keys[0]) if len(users) == len(keys) == 1 else ("", ""))
        if len(found) != 1 or not parameters.keys().isdisjoint({"user", "password", "role", "quota_key"}):
            return None
        ((user, password),) = found
        roles: dict[str, Role] = {WRITER: "writer", READER: "reader"}
        role = roles.get(user)
        right = self.server.credentials.clickhouse(user)
        return role if role and hmac.compare_digest(password.encode(), right.encode()) else None

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        pairs = parse_qsl(url.query, keep_blank_values=True)
        parameters = dict(pairs)
        if not self._is_local():
            return self._refuse(403, ACCESS_DENIED, "Host must be a name of loopback, and Origin absent: no web page")
        if url.path == "/ping" and self.command == "GET":
            return self._answer(200, b"Ok.\n")
        role = self._role(parameters)
        if role is None:
            text = "Authentication failed: user and password belong into one header, Authorization or X-ClickHouse-*"
            return self._refuse(403, AUTHENTICATION_FAILED, text)
        self.trust()
        try:
            body = self._body(BODY_BYTES if role == WRITER else QUERY_BYTES)
        except TooLarge as error:
            return self._refuse(413, 113, f"the body is too large: {error}")
        except (ValueError, OSError, EOFError, RuntimeError, zlib.error, zstandard.ZstdError) as error:
            return self._refuse(400, 1002, f"the body cannot be read: {error}")
        asked = parameters.get("query_id", "")
        # It becomes a header: whatever could end one is not taken.
        identity = asked if re.fullmatch(r"[\w.:-]{1,100}", asked, re.A) else str(uuid.uuid4())
        begin = time.perf_counter_ns()
        try:
            if len(pairs) != len(parameters):
                raise Denied(ACCESS_DENIED, "a parameter is given twice")
            result, name, summary = self.server.engine.run(
                parameters.get("query", ""), body, parameters, role, only_read=self.command != "POST"
            )
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
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--credentials", type=Path, required=True, help="data directory that holds them")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    die_with_parent()
    path = arguments.path.absolute()
    try:
        credentials = Credentials.read(arguments.credentials)
        # The engine opens a table name that it does not know as a file of the working directory: an empty one.
        empty = path.parent / "empty"
        empty.mkdir(mode=0o700, exist_ok=True)
        os.chdir(empty)
        server = Server(str(path), credentials, arguments.port)
    except (OSError, ConfigError) as error:
        sys.exit(f"port {arguments.port}: {getattr(error, 'strerror', None) or error}")
    except Exception as error:  # noqa: BLE001 - the engine raises plain Exception: taken or unreadable directory
        sys.exit(f"{path}: {error}")
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    ended = threading.Event()
    watch = threading.Thread(target=server.engine.mind_disk, args=(ended,), daemon=True)
    watch.start()
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever(poll_interval=0.1)
    ended.set()
    watch.join()
    server.engine.close()


if __name__ == "__main__":
    main()
