"""The read side: SQL over the store, books rebuilt from their changes, records off the stream.

Reading goes with ``final = 1``: a reader never sees a repeat, whether or not ClickHouse has merged it away yet.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import nats.errors
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError
from nats.js.api import AckPolicy, ConsumerConfig

from marketprism_ray.bars import following
from marketprism_ray.consume import Once
from marketprism_ray.encoding import decode_json
from marketprism_ray.errors import BookError, MarketPrismError, shorten
from marketprism_ray.gaps import Place
from marketprism_ray.sinks.clickhouse import ClickHouseSettings, connect
from marketprism_ray.sinks.nats import NatsSettings
from marketprism_ray.sinks.nats import connect as connect_nats


@dataclass(frozen=True)
class RebuiltBook:
    """A book made from stored rows; levels are (price, quantity), best first, in base."""

    last_update_id: int
    bids: list[tuple[Decimal, Decimal]]
    asks: list[tuple[Decimal, Decimal]]
    changes: int


OPEN_HOLE = ["channel", "reason", "opened_at", "closed_at", "revision"]


@dataclass(frozen=True)
class OpenHole:
    """An open gap without a sequence."""

    channel: str
    reason: str
    opened_at: int
    closed_at: int
    revision: int


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    """Give times as JSON on NATS has them."""
    return {
        name: f"{value.isoformat()[:26].removesuffix('+00:00')}Z" if hasattr(value, "isoformat") else value
        for name, value in row.items()
    }


class Store:
    """Reads one ClickHouse database; the server itself refuses whatever would change it.

    Parameters
    ----------
    write : allow statements that change the store
    """

    def __init__(self, settings: ClickHouseSettings, *, write: bool = False) -> None:
        self._client = connect(settings)
        # Level 2: a statement may still choose settings that only say how it reads.
        self._settings = {"final": 1} if write else {"final": 1, "readonly": 2}

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def query(self, sql: str, **parameters: Any) -> pa.Table:
        """Run SQL; a statement without a result gives an empty table.

        Raises
        ------
        MarketPrismError
            With the server's message.
        """
        try:
            table: pa.Table = self._client.query_arrow(sql, parameters=parameters or None, settings=self._settings)
        except ClickHouseError as error:
            raise MarketPrismError(shorten(str(error), 500)) from error
        except pa.ArrowInvalid as error:
            if "too small: 0" not in str(error):
                raise MarketPrismError(f"the answer is no Arrow file: {error}") from error
            return pa.table({})
        return table

    def trades(self, venue: str, symbol: str) -> pa.Table:
        """Give sequence, price, quantity (venue units) and side of all trades, by sequence."""
        return self.query(
            "SELECT sequence, price, ifNull(raw_quantity, quantity) AS quantity, is_buyer_maker FROM trade "
            "WHERE exchange_name = {venue:String} AND symbol_name = {symbol:String} ORDER BY sequence",
            venue=venue,
            symbol=symbol,
        )

    def gaps(self, wanted: Mapping[str, str], since: int | None = None) -> list[dict[str, Any]]:
        """Give gap rows as JSON has them, the oldest first.

        Parameters
        ----------
        wanted : column -> value
        since : ns; only gaps that last or ended after this
        """
        where = [f"{name} = {{{name}:String}}" for name in wanted]
        if since is not None:
            where.append("(closed_at IS NULL OR closed_at > fromUnixTimestamp64Nano(toInt64({since:Int64})))")
        table = self.query(
            f"SELECT * FROM gap {'WHERE ' if where else ''}{' AND '.join(where)} ORDER BY opened_at",
            **wanted,
            **({} if since is None else {"since": since}),
        )
        return [_as_json(row) for row in table.to_pylist()]

    def times(self, place: Place, first: int, last: int) -> set[int]:
        """Give the times of rows that were asked for, from first to last, ns; of candles when final ones open."""
        is_kline = place.data_type == "kline"
        column = "open_time" if is_kline else "timestamp"
        more = "AND is_closed AND interval = {channel:String}" if is_kline else "AND source != 'stream'"
        table = self.query(
            f"SELECT DISTINCT toUnixTimestamp64Nano({column}) AS at FROM {place.data_type} "
            "WHERE exchange_name = {venue:String} AND symbol_name = {symbol:String} "
            f"AND toUnixTimestamp64Nano({column}) BETWEEN {{first:Int64}} AND {{last:Int64}} {more}",
            venue=place.exchange_name,
            symbol=place.symbol_name,
            first=first,
            last=last,
            **({"channel": place.channel} if is_kline else {}),
        )
        return set(table["at"].to_pylist()) if table.num_rows else set()

    def open_holes(self, place: Place, first: int, last: int) -> list[OpenHole]:
        """Give a stream's open gaps between two times, ns, that have ended."""
        table = self.query(
            "SELECT channel, reason, toUnixTimestamp64Nano(opened_at) AS opened, "
            "toUnixTimestamp64Nano(assumeNotNull(closed_at)) AS closed, revision FROM gap "
            "WHERE exchange_name = {venue:String} AND symbol_name = {symbol:String} AND data_type = {type:String} "
            "AND status = 'open' AND closed_at IS NOT NULL AND first_missing IS NULL ORDER BY opened",
            venue=place.exchange_name,
            symbol=place.symbol_name,
            type=place.data_type,
        )
        rows = [OpenHole(**row) for row in table.rename_columns(OPEN_HOLE).to_pylist()] if table.num_rows else []
        interval = place.channel if place.data_type == "kline" else ""

        def begins(row: OpenHole) -> int:
            return following(row.opened_at, interval) if interval else row.opened_at + 1

        ours = [row for row in rows if interval in ("", row.channel)]
        return [row for row in ours if first <= begins(row) and row.closed_at <= last + 1]

    def open_gaps(self) -> pa.Table:
        """Give the gaps that are open."""
        return self.query("SELECT * FROM gap WHERE status = 'open' ORDER BY opened_at")

    def counts(self) -> dict[str, int]:
        """Give rows per data type, of those that have rows."""
        table = self.query(
            "SELECT table, toInt64(sum(rows)) AS rows FROM system.parts "
            "WHERE active AND database = currentDatabase() GROUP BY table ORDER BY table"
        )
        return dict(zip(table["table"].to_pylist(), table["rows"].to_pylist(), strict=True))

    def rebuild_book(self, venue: str, symbol: str) -> RebuiltBook:
        """Rebuild a book from its last stored snapshot and the changes that continue it.

        Raises
        ------
        BookError
            If nothing is stored, or the chain of changes is broken.
        """
        where = "exchange_name = {venue:String} AND symbol_name = {symbol:String}"
        last = self.query(
            f"SELECT receive_timestamp FROM orderbook_delta WHERE {where} AND is_snapshot LIMIT 1",
            venue=venue,
            symbol=symbol,
        )
        if not last.num_rows:
            raise BookError(f"{venue} {symbol}: no snapshot is stored")
        # Changes that were held for the snapshot were received before it: look back as far as they can be held.
        rows = self.query(
            "SELECT last_update_id, previous_update_id, is_snapshot, bids.price AS bp, bids.quantity AS bq, "
            f"asks.price AS ap, asks.quantity AS aq FROM orderbook_delta WHERE {where} AND receive_timestamp >= "
            f"(SELECT max(receive_timestamp) FROM orderbook_delta WHERE {where} AND is_snapshot) - INTERVAL 60 SECOND",
            venue=venue,
            symbol=symbol,
        ).to_pylist()
        snapshots = [row for row in rows if row["is_snapshot"]]
        start = snapshots[0] if len(snapshots) == 1 else max(snapshots, key=lambda row: row["last_update_id"])
        following = {row["previous_update_id"]: row for row in rows if not row["is_snapshot"]}
        bids = dict(zip(start["bp"], start["bq"], strict=True))
        asks = dict(zip(start["ap"], start["aq"], strict=True))
        at, changes = start["last_update_id"], 0
        while (row := following.pop(at, None)) is not None:
            for side, prices, quantities in ((bids, row["bp"], row["bq"]), (asks, row["ap"], row["aq"])):
                for price, quantity in zip(prices, quantities, strict=True):
                    if quantity:
                        side[price] = quantity
                    else:
                        side.pop(price, None)
            at = row["last_update_id"]
            changes += 1
        left = [row for previous, row in following.items() if previous >= start["last_update_id"]]
        if left:
            raise BookError(f"{venue} {symbol}: {len(left)} changes do not continue update id {at}")
        return RebuiltBook(at, sorted(bids.items(), reverse=True), sorted(asks.items()), changes)


async def tail(settings: NatsSettings, subject: str) -> AsyncGenerator[tuple[str, bytes], None]:
    """Give (subject, JSON text) as they are published, until the caller stops; `encoding.decode_json` reads it.

    A plain subscription, not a reader of the stream: what is sent again reaches it as well, and is left out here.
    """
    client = await connect_nats(settings)
    once = Once()
    try:
        subscription = await client.subscribe(subject, pending_msgs_limit=100_000)
        async for message in subscription.messages:
            identity = (message.headers or {}).get("Nats-Msg-Id")
            if identity is None or once.is_new_id(identity):
                yield message.subject, message.data
    finally:
        await client.close()


async def stream_records(settings: NatsSettings, subject: str) -> list[dict[str, Any]]:
    """Read everything the stream holds under a subject.

    Raises
    ------
    MarketPrismError
        If the stream cannot be read to its end.
    """
    client = await connect_nats(settings)
    try:
        stream = client.jetstream(timeout=10)
        # Nothing is acknowledged: an explicit policy would stop after 1000 messages.
        reading = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=30)
        subscription = await stream.pull_subscribe(subject, stream=settings.stream, config=reading)
        found: list[dict[str, Any]] = []
        pending = (await subscription.consumer_info()).num_pending
        while len(found) < pending:
            for message in await subscription.fetch(min(1000, pending - len(found)), timeout=10):
                found.append(decode_json(message.data))
        return found
    except (nats.errors.Error, TimeoutError) as error:
        raise MarketPrismError(f"NATS: reading {subject}: {type(error).__name__}: {error}") from error
    finally:
        await client.close()
