"""The deliberate defects, as data. ``mutants.py`` runs them.

Each is a piece of a module's text, which must be there exactly once, and what stands there instead.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A deliberate defect.

    Parameters
    ----------
    about : what is wrong, in words
    module, old, new : where, and what is changed into what
    scenario : ``small`` for the world in one process, ``small-disturbed`` for the same with losses on the wire, else
        ``demo`` or the scenario of ``prove`` that would show it
    """

    name: str
    about: str
    module: str
    old: str
    new: str
    scenario: str = "small"

    def applied(self, text: str) -> str:
        """Change a module's text.

        Raises
        ------
        ValueError
            If the piece is not there, or more than once.
        """
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"mutant {self.name}: its text stands {found} times in {self.module}")
        return text.replace(self.old, self.new)


_BATCHING = "marketprism_ray.batching"
_SPOT = "marketprism_ray.venues.binance"
_FUTURES = "marketprism_ray.venues.binance_futures"
_OKX = "marketprism_ray.venues.okx"
_DERIBIT = "marketprism_ray.venues.deribit"
_TRADES = "marketprism_ray.trade_stream"

MUTANTS: tuple[Mutant, ...] = (
    # --- values ---
    Mutant(
        "side-inverted",
        "buys are sells",
        _BATCHING,
        'pc.if_else(maker, "sell", "buy")',
        'pc.if_else(maker, "buy", "sell")',
    ),
    Mutant(
        "maker-inverted",
        "who made is who took",
        _SPOT,
        "return [trade.is_buyer_maker for",
        "return [not trade.is_buyer_maker for",
    ),
    Mutant(
        "okx-side-inverted",
        "OKX's sells are buys",
        _OKX,
        'return [trade.side == "sell" for',
        'return [trade.side == "buy" for',
    ),
    Mutant(
        "time-an-hour-off",
        "trades are an hour late",
        _BATCHING,
        "nanoseconds = wire_times * time_ns\n",
        "nanoseconds = wire_times * time_ns + 3_600_000_000_000\n",
    ),
    Mutant(
        "receipt-is-event-time",
        "the time of receipt is the venue's",
        _BATCHING,
        "        pa.array(received, pa.int64()).cast(TIME),\n        pa.repeat",
        "        pa.array(np.array(received) - 3_600_000_000_000, pa.int64()).cast(TIME),\n        pa.repeat",
    ),
    Mutant(
        "last-fill-as-id",
        "an aggregate is known by its last fill: `a` and `l` are swapped",
        _SPOT,
        '``a`` rises by one per symbol."""\n\n    sequence: int = msgspec.field(name="a")\n'
        '    price: str = msgspec.field(name="p")\n    quantity: str = msgspec.field(name="q")\n'
        '    time: int = msgspec.field(name="T")\n    is_buyer_maker: bool = msgspec.field(name="m")\n'
        '    first_trade: int = msgspec.field(name="f")\n    last_trade: int = msgspec.field(name="l")\n',
        '``a`` rises by one per symbol."""\n\n    sequence: int = msgspec.field(name="l")\n'
        '    price: str = msgspec.field(name="p")\n    quantity: str = msgspec.field(name="q")\n'
        '    time: int = msgspec.field(name="T")\n    is_buyer_maker: bool = msgspec.field(name="m")\n'
        '    first_trade: int = msgspec.field(name="f")\n    last_trade: int = msgspec.field(name="a")\n',
    ),
    Mutant(
        "contract-size-coinm", "every COIN-M contract is 10 USD", _FUTURES, "else str(item.contractSize),", 'else "10",'
    ),
    Mutant(
        "contract-size-okx",
        "ctVal is ignored",
        _OKX,
        "size = _plain(Decimal(item.ctVal) *",
        "size = _plain(Decimal(1) *",
    ),
    Mutant(
        "quote-is-price",
        "the quote quantity is the price",
        _BATCHING,
        "multiply(price, raw) if quote is None else quote",
        "price",
    ),
    Mutant(
        "raw-quantity-lost",
        "the venue's own figure is not kept",
        _BATCHING,
        'pc.if_else(pc.equal(unit, "base"), pa.scalar(None, DECIMAL), raw)',
        "pa.nulls(n, DECIMAL)",
    ),
    Mutant(
        "rounded-down",
        "quotients are cut, not rounded half-even",
        "marketprism_ray.units",
        "result = _round(quotient, quotient.type.scale, exactly=False)",
        "result = pc.cast(_split(quotient, quotient.type.scale)[0], DECIMAL)",
    ),
    Mutant(
        "market-type-wrong",
        "perpetuals are filed as futures",
        _BATCHING,
        "_text([i.market_type for i in instruments], index)",
        '_text(["futures" if i.market_type == "perpetual" else i.market_type for i in instruments], index)',
    ),
    # --- low-rate types ---
    Mutant(
        "percent-not-fraction",
        "percent points stay percent points",
        "marketprism_ray.amounts",
        "Decimal(text).scaleb(-2,",
        "Decimal(text).scaleb(0,",
    ),
    Mutant(
        "bid-and-ask-swapped", "the best bid is the ask", _SPOT, "best_bid_price=event.b,", "best_bid_price=event.a,"
    ),
    Mutant(
        "candle-ends-early",
        "a candle ends a millisecond early",
        _SPOT,
        "close_time=(k.T + 1) * MS",
        "close_time=k.T * MS",
    ),
    Mutant(
        "open-interest-in-contracts",
        "contracts are taken for coins",
        _OKX,
        "open_interest=given(row.oiCcy)",
        "open_interest=given(row.oi)",
    ),
    Mutant(
        "funding-time-is-now",
        "the time of funding is the time of the message",
        _FUTURES,
        "funding_time=event.T * MS or None",
        "funding_time=event.E * MS",
    ),
    Mutant(
        "liquidation-side-inverted",
        "longs that are closed are shorts",
        _FUTURES,
        'side="sell" if order.S == "SELL" else "buy"',
        'side="buy" if order.S == "SELL" else "sell"',
    ),
    Mutant(
        "liquidated-maker-or-taker",
        "whose order was forced is mixed up",
        _DERIBIT,
        '(row.direction == "sell") == (who == "T")',
        '(row.direction == "sell") != (who == "T")',
    ),
    Mutant(
        "ratio-swapped",
        "shorts are longs",
        _FUTURES,
        "long_ratio=given(row.longAccount or row.longPosition)",
        "long_ratio=given(row.shortAccount or row.shortPosition)",
    ),
    Mutant("greeks-swapped", "vega is theta", _DERIBIT, "vega=figure(greeks.vega)", "vega=figure(greeks.theta)"),
    Mutant(
        "low-rate-rows-dropped",
        "each tenth low-rate row is forgotten",
        "marketprism_ray.record_stream",
        "                    batcher.record(line, record, received)\n",
        "                    if self.records % 10:\n                        batcher.record(line, record, received)\n",
    ),
    Mutant(
        "polled-rows-dropped",
        "a polled row in seven is forgotten",
        "marketprism_ray.polling",
        "                revised = msgspec.structs.replace(record,",
        "                if task.rows % 7 == 0:\n                    continue\n"
        "                revised = msgspec.structs.replace(record,",
    ),
    Mutant(
        "instrument-wrong",
        "lot and tick are mixed up",
        "marketprism_ray.amounts",
        "tick_size=instrument.tick_size",
        "tick_size=instrument.lot_size",
    ),
    # --- trades and gaps ---
    Mutant(
        "trades-dropped",
        "a trade in a hundred is forgotten",
        "marketprism_ray.intake",
        "        self._rows.append(trade)\n        self._received.append(received)\n",
        "        if trade.sequence % 100 == 7:\n            self._owners.pop()\n            return\n"
        "        self._rows.append(trade)\n        self._received.append(received)\n",
    ),
    Mutant(
        "gap-closed-early",
        "a hole is `repaired` before it is, and never asked for",
        _TRADES,
        '        self._write(gap, "open", received)\n        self.repairs.open(gap)\n',
        '        self._write(gap, "repaired", received)\n',
        "small-disturbed",
    ),
    Mutant(
        "gap-not-written",
        "a hole is neither written down nor asked for",
        _TRADES,
        "        self.missing += gap.size - self.repairs.taken.count(gap.first, gap.last)\n",
        "        return\n        self.missing += gap.size - self.repairs.taken.count(gap.first, gap.last)\n",
        "small-disturbed",
    ),
    Mutant(
        "backfill-off-by-one",
        "the first missing trade is not asked for",
        _SPOT,
        '"fromId": str(first), "limit"',
        '"fromId": str(first + 1), "limit"',
        "small-disturbed",
    ),
    Mutant(
        "sequence-ignored",
        "jumps of the sequence are no holes",
        _TRADES,
        "        if first == last + 1 and not self._unended and self._chain_first is not None:\n",
        "        if first > last:\n",
        "small-disturbed",
    ),
    # --- books ---
    Mutant(
        "spot-gap-by-one-allowed",
        "an update may be missing before each change",
        _SPOT,
        "    if delta.first > last + 1:\n",
        "    if delta.first > last + 1000:\n",
        "small-disturbed",
    ),
    Mutant(
        "stale-change-applied",
        "a change older than the snapshot is applied",
        _SPOT,
        "    if delta.last <= last:\n        return Follows.STALE\n",
        "",
        "small-disturbed",
    ),
    Mutant(
        "pu-ignored",
        "futures changes follow whatever `pu` says",
        _FUTURES,
        "    if delta.previous == last:\n        return Follows.NEXT\n",
        "    if delta.last > last:\n        return Follows.NEXT\n",
        "small-disturbed",
    ),
    Mutant(
        "prev-seq-ignored",
        "OKX changes follow whatever prevSeqId says",
        _OKX,
        "    if delta.previous is None or delta.previous == last:\n",
        "    if True:\n",
        "small-disturbed",
    ),
    Mutant(
        "delete-not-recognised",
        "only `0` deletes a level, `0.000` does not",
        "marketprism_ray.book",
        "            quantity = number(level.quantity)\n",
        '            quantity = number(level.quantity) or (0.0 if level.quantity == "0" else 1e-9)\n',
    ),
    Mutant(
        "delete-forgotten",
        "levels that go stay in the published book",
        "marketprism_ray.book",
        "                    del prices[at], rows[at]\n                    size -= 1\n                    continue\n",
        "                    continue\n",
    ),
    Mutant(
        "book-worst-first",
        "published bids are upside down",
        "marketprism_ray.book",
        "return self._bids[1][: -depth - 1 : -1], self",
        "return self._bids[1][-depth:], self",
    ),
    Mutant(
        "asks-dropped",
        "changes of offers are not kept",
        _BATCHING,
        "            [delta.asks for delta in deltas],\n",
        "            [[] if not delta.is_snapshot else delta.asks for delta in deltas],\n",
    ),
    Mutant(
        "previous-id-wrong",
        "changes continue what their own first id says",
        _BATCHING,
        "pa.array([row[0] for row in rows], pa.int64())",
        "pa.array([delta.first - 1 for delta in deltas], pa.int64())",
    ),
    Mutant(
        "book-gap-not-written",
        "a broken chain of changes is not written down",
        "marketprism_ray.book_stream",
        "        self.gaps_opened += 1\n",
        "        return\n        self.gaps_opened += 1\n",
        "small-disturbed",
    ),
    Mutant(
        "book-gap-repaired",
        "a broken chain is called `repaired`",
        "marketprism_ray.book_stream",
        'status="repaired" if is_whole else "unrepairable"',
        'status="repaired"',
        "small-disturbed",
    ),
    # --- encoding and keys ---
    Mutant(
        "numbers-are-7",
        "every number on NATS is 7",
        "marketprism_ray.encoding",
        "        return number_text(column)\n",
        '        return pc.if_else(pc.is_valid(column), "7", None)\n',
    ),
    Mutant(
        "times-in-seconds",
        "times on NATS lose their fraction",
        "marketprism_ray.encoding",
        'text = column.cast(pa.timestamp("ns")).cast(pa.string())',
        'text = column.cast(pa.timestamp("s"), safe=False).cast(pa.timestamp("ns")).cast(pa.string())',
    ),
    Mutant(
        "ids-are-times",
        "a message's id is its symbol and time alone",
        "marketprism_ray.schemas",
        'return ("exchange_name", "symbol_name", *(record.message_key or record.key))',
        'return ("exchange_name", "symbol_name", "timestamp")',
    ),
    Mutant(
        "key-without-id",
        "trades of one millisecond share a key",
        "marketprism_ray.records",
        'key: ClassVar[tuple[str, ...]] = ("timestamp", "trade_id")',
        'key: ClassVar[tuple[str, ...]] = ("timestamp",)',
    ),
    Mutant(
        "subject-misfiled",
        "messages are published under the base alone",
        "marketprism_ray.encoding",
        '    parts = [RECORDS[data_type].kind, venue, batch.column("market_type"), symbol]\n',
        '    parts = [RECORDS[data_type].kind, venue, "spot", symbol]\n',
    ),
    # --- acknowledgement, marks and sinks: the whole system ---
    Mutant(
        "acknowledged-before-written",
        "a sink says that batches are durable before it writes them",
        "actors.sinks",
        "            written = [self._queue(delivery, collector, epoch) for delivery in deliveries]\n",
        "            written = [self._queue(delivery, collector, epoch) for delivery in deliveries]\n"
        "            return {}\n",
        "kill-clickhouse-sink",
    ),
    Mutant(
        "mark-one-ahead",
        "what a sink has reaches one further than what is durable",
        "actors.sinks",
        "        batch_id, _, _, claims = delivery\n",
        "        batch_id, _, _, claims = delivery\n"
        "        claims = {\n"
        "            key: Claim(tuple(run._replace(high=run.high + 1) for run in claim.runs), claim.since)\n"
        "            for key, claim in claims.items()\n"
        "        }\n",
        "kill-collector",
    ),
    Mutant(
        "batches-swapped",
        "the newest batch is sent first, and its mark counts",
        "actors.collector",
        "kept = self.pending.popleft()",
        "kept = self.pending.pop()",
        "stall-servers",
    ),
    Mutant(
        "last-row-of-an-insert-lost",
        "ClickHouse does not get the last row of a large insert",
        "marketprism_ray.sinks.clickhouse",
        "            self._insert(data_type, table, token)\n        except BadBatch:",
        "            self._insert(data_type, table.slice(0, max(1, table.num_rows - 1)), token)\n"
        "        except BadBatch:",
        "demo",
    ),
    Mutant(
        "published-without-an-ear",
        "NATS rows count as published when they are sent, whether or not the server has them",
        "marketprism_ray.sinks.nats",
        "            while call.rows:\n",
        "            while False:\n",
        "kill-nats-server",
    ),
)
