"""The server side of OKX v5: public and business sockets, one acknowledgement an argument, book chains, summaries.

Trades, books, best prices and liquidations are sent as they happen. Everything else is sent by the clock, for keys
somebody subscribed, and once to whoever subscribes; ``instruments`` says only what changes, and nothing does.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, Truth
from marketprism_ray.simulator.okx.chains import Chain, Fills, merged
from marketprism_ray.simulator.okx.channels import (
    CHANNELS,
    book_frame,
    key_of,
    levels_text,
    liquidation_frame,
    push,
    trade_frame,
)
from marketprism_ray.simulator.okx.commands import CONNECTION, SILENT_S, Command, Refused, Session, read
from marketprism_ray.simulator.okx.figures import Figures
from marketprism_ray.simulator.okx.intervals import open_of
from marketprism_ray.simulator.okx.rest import LIMITS, OkxRest, answer
from marketprism_ray.simulator.okx.rows import (
    TYPES,
    candle_row,
    family_of,
    funding_row,
    index_row,
    instrument_row,
    interest_row,
    liquidation_row,
    mark_row,
    option_row,
    state_of,
    text,
    ticker_row,
    type_of,
)
from marketprism_ray.simulator.rules import Rules
from marketprism_ray.simulator.summaries import mark_price, open_interest
from marketprism_ray.simulator.wire import Client, Wire

KEEP_ALIVE_S = 60.0
BEAT_MS = 100
"""What is sent by the clock is looked at this often."""
BEST_MS = 10
"""Best prices are looked at this often."""
UPGRADE_MS = 60_000
"""A socket is closed this long after the notice."""
RULES = Rules(connects=(3, 1.0))


class Okx:
    """One simulated market of this house: ``okx_spot`` or ``okx_derivatives``."""

    def __init__(self, name: str, market: Market, wire: Wire, *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.name = name
        self.rate_limited = 0
        self.rules = RULES
        self._keep_alive_ms = keep_alive_s * 1000
        self._market = market
        self._wire = wire
        self._figures: dict[str, Figures] = {}
        self._past: dict[str, Figures] = {}
        """Instruments that are not listed any more: their history can be asked for."""
        self._indices: dict[str, Figures] = {}
        self._families: dict[str, list[Figures]] = defaultdict(list)
        self._states: dict[str, str] = {}
        self._sessions: dict[Client, Session] = {}
        self._chains: dict[str, Chain] = {}
        """Books that somebody subscribed once."""
        self._fills: dict[str, Fills] = defaultdict(Fills)
        self._touched: set[str] = set()
        """Instruments whose book has changed since best prices were looked at."""
        self._best: dict[str, Any] = {}
        self._best_beat = 0
        self.relist()
        self._rest_api = OkxRest(self._figures, self._past)
        self._spent: dict[tuple[str, str, str | None], deque[float]] = defaultdict(deque)
        self._changed: dict[str, int] = {}
        self._forced_fills: dict[str, list[TradeEvent]] = defaultdict(list)
        self._forced_at: dict[str, int] = {}
        """Second of the last liquidation of each contract."""
        self._forced: dict[str, TradeEvent] = {}
        """The last liquidation of each type of instrument."""
        self._streams: dict[str, tuple[str, str]] = {}
        """Channel and argument of each key that was ever subscribed and is sent by the clock."""
        self._sent: dict[str, tuple[int, Any]] = {}
        """When a key was last sent by the clock, and the state that was sent."""
        self._beat = 0

    def relist(self) -> None:
        """Look at the list of symbols again, and say what came, changed and went."""
        listed = {symbol.listing.venue_symbol: symbol for symbol in self._market.of_venue(self.name)}
        for gone in self._figures.keys() - listed.keys():
            self._past[gone] = self._figures.pop(gone)
            self._chains.pop(gone, None)
        for name, symbol in listed.items():
            if name not in self._figures:
                self._figures[name] = self._past.pop(name) if name in self._past else Figures(symbol)
        states = {name: state_of(symbol) for name, symbol in listed.items()}
        if self._states:
            for name, figures in {**self._past, **self._figures}.items():
                # What has reached its delivery or is not traded any more is named once more.
                state = states.get(name, "suspend")
                if self._states.get(name) not in (state, None) or (name in states and name not in self._states):
                    row = instrument_row(figures.symbol.listing, state)
                    self._send(key_of("instruments", row["instType"]), [row], push)
        self._states = states
        self._indices.clear()
        self._families.clear()
        for figures in self._figures.values():
            listing = figures.symbol.listing
            if listing.market_type == "option":
                self._families[family_of(listing)].append(figures)
            else:
                self._indices.setdefault(f"{listing.base}-{listing.quote}", figures)

    def told(self, symbol: Symbol) -> Truth:
        """Give the trades of a symbol as followers of this venue know them."""
        return symbol.truth

    def routes(self) -> list[web.RouteDef]:
        """Give the HTTP routes."""
        return [
            web.get(f"/{self.name}/ws/v5/{{path:public|business}}", self._socket),
            web.get(f"/{self.name}/api/v5/{{endpoint:.+}}", self._rest),
        ]

    def endpoints(self, host: str) -> dict[str, str]:
        """Give the URL of each socket and of ``rest``."""
        sockets = {path: f"ws://{host}/{self.name}/ws/v5/{path}" for path in ("public", "business")}
        return {**sockets, "rest": f"http://{host}/{self.name}"}

    # --- commands ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        return await self._wire.serve(
            request, self.name, path, self._hear, idle_s=SILENT_S, names=("",), opened=self._open, rules=self.rules
        )

    def _open(self, client: Client, _: str) -> None:
        self._sessions[client] = Session()

    def _hear(self, client: Client, message: str) -> None:
        if message == "ping":
            client.send("pong")
            return
        session = self._sessions[client]
        identity: dict[str, Any] = {}
        try:
            command = read(message)
            identity = command.identity
            session.count()
            if command.op == "login":
                session.log_in(command.args)
                client.send(text({**identity, "event": "login", "code": "0", "msg": "", "connId": CONNECTION}))
                return
        except Refused as refused:
            self._refuse(client, identity, refused)
            return
        for arg in command.args:
            try:
                self._carry_out(client, session, command, arg)
            except Refused as refused:
                self._refuse(client, identity, refused)

    def _refuse(self, client: Client, identity: dict[str, Any], refused: Refused) -> None:
        error = {"event": "error", "code": refused.code, "msg": str(refused), "connId": CONNECTION}
        client.send(text({**identity, **error}))

    def _carry_out(self, client: Client, session: Session, command: Command, arg: dict[str, Any]) -> None:
        session.refuse_tick_books(arg)
        name, value = str(arg.get("channel")), ""
        if name in CHANNELS:
            value = str(arg.get(CHANNELS[name].parameter))
        # An instrument that went can still be unsubscribed.
        is_going = command.op == "unsubscribe" and name in CHANNELS and key_of(name, value) in client.keys
        if not is_going and not self._has(client.path, arg):
            named = next((name for name in ("instId", "instFamily", "uly", "instType") if name in arg), "instId")
            stream = f"channel:{arg.get('channel', '')},{named}:{arg.get(named, '')}"
            raise Refused("60018", f"Wrong URL or {stream} doesn't exist. Please use the correct URL")
        key = key_of(name, value)
        if command.op == "subscribe":
            session.make_room(key)
        client.send(text({**command.identity, "event": command.op, "arg": arg, "connId": CONNECTION}))
        if command.op == "unsubscribe":
            session.arguments.pop(key, None)
            self._wire.unsubscribe(client, key)
            return
        if name == "books":
            # What waits is of others: the new listener's snapshot holds it already.
            self._chains.setdefault(value, Chain(self._figures[value].symbol))
            self._send_book(value, self._wire.now_ms())
        self._wire.subscribe(client, key)
        self._welcome(client, key, name, value)

    def _has(self, path: str, arg: dict[str, Any]) -> bool:
        """Tell whether an argument names a stream of this socket."""
        channel = CHANNELS.get(str(arg.get("channel")))
        if channel is None or channel.path != path:
            return False
        value = arg.get(channel.parameter)
        if not isinstance(value, str):
            return False
        match channel.argument:
            case "instType":
                return value in TYPES
            case "instFamily":
                return value in self._families
            case "index":
                return value in self._indices
        found = self._figures.get(value)
        return found is not None and type_of(found.symbol.listing) in channel.types

    def _welcome(self, client: Client, key: str, name: str, value: str) -> None:
        """Send what a new listener gets at once."""
        now_ms = self._wire.now_ms()
        if CHANNELS[name].every_ms:
            self._streams[key] = name, value
            self._sent.setdefault(key, (now_ms, self._state(name, value, now_ms)))
            rows = self._rows(name, value, now_ms)
            if rows:
                self._wire.greet(client, key, push(key, rows))
        elif name == "books":
            self._wire.greet(client, key, self._snapshot(self._figures[value].symbol))
        elif name in ("trades", "trades-all"):
            symbol = self._figures[value].symbol
            if symbol.truth.subscribed_from is None:
                symbol.truth.subscribed_from = symbol.trade_id + 1
        elif name == "liquidation-orders" and value in self._forced:
            self._wire.greet(client, key, push(key, [liquidation_row(self._forced[value])]))

    def _snapshot(self, symbol: Symbol) -> str:
        bids, asks = symbol.book(400)
        return (
            f'{{"arg":{key_of("books", symbol.listing.venue_symbol)},'
            f'"action":"snapshot","data":[{{"asks":{levels_text(asks)},'
            f'"bids":{levels_text(bids)},"ts":"{self._wire.now_ms()}","checksum":0,"prevSeqId":-1,"seqId":{symbol.update_id}}}]}}'
        )

    def refusal(self, status: int) -> str:
        """Give the body of an answer that a fault makes of this HTTP status."""
        known = {429: ("50011", "Too Many Requests"), 503: ("50013", "Systems are busy. Please try again later.")}
        code, message = known.get(status, ("50001", "Service temporarily unavailable. Please try again later."))
        return text({"code": code, "msg": message, "data": []})

    def notice(self) -> None:
        """Announce a service upgrade on every socket; each is closed a minute later."""
        message = "The connection will soon be closed for a service upgrade. Please reconnect."
        for client, session in self._sessions.items():
            client.send(text({"event": "notice", "code": "64008", "msg": message, "connId": CONNECTION}))
            session.closes_ms = session.closes_ms or self._wire.now_ms() + UPGRADE_MS

    # --- as it happens ---

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it; changes of books wait for their beat."""
        name = event.listing.venue_symbol
        figures = self._figures[name]
        figures.add(event)
        if isinstance(event, BookEvent):
            self._changed[name] = event.time_ms
            self._touched.add(name)
            if name in self._chains:
                self._chains[name].add(event)
            return
        sequence = figures.symbol.update_id
        self._send(key_of("trades-all", name), event, partial(trade_frame, sequence=sequence))
        for fills in self._fills[name].add(event):
            write = partial(trade_frame, sequence=sequence, count=len(fills))
            self._send(key_of("trades", name), merged(fills), write)
        if event.is_liquidation:
            self._liquidate(event)

    def _liquidate(self, event: TradeEvent) -> None:
        """Send a forced order when it is filled: at most one a second and contract, the venue leaves out the others."""
        name, second = event.listing.venue_symbol, event.time_ms // 1000
        self._forced_fills[name].append(event)
        if not event.is_last:
            return
        whole = merged(self._forced_fills.pop(name))
        if self._forced_at.get(name) == second:
            return
        self._forced_at[name] = second
        kind = type_of(event.listing)
        self._forced[kind] = whole
        self._send(key_of("liquidation-orders", kind), whole, liquidation_frame)

    def _send_book(self, name: str, now_ms: int) -> None:
        """Send what has changed of a book since the last update."""
        update = self._chains[name].update(now_ms) if name in self._chains else None
        if update is not None:
            self._send(key_of("books", name), update, book_frame)

    def _send_best(self, name: str, now_ms: int) -> None:
        """Send best prices that are others than the last."""
        symbol = self._figures[name].symbol
        bid, ask = best = symbol.best()
        if self._best.get(name) == best:
            return
        self._best[name] = best
        row = f'"asks":{levels_text([ask])},"bids":{levels_text([bid])},"ts":"{now_ms}","seqId":{symbol.update_id}'
        self._send(key_of("bbo-tbt", name), row, lambda key, row: f'{{"arg":{key},"data":[{{{row}}}]}}')

    def _send(self, key: str, event: Any, write: Callable[[str, Any], str]) -> None:
        """Write a frame once, and only if somebody wanted it once."""
        made: list[str] = []

        def frame(_: Client) -> str:
            if not made:
                made.append(write(key, event))
            return made[0]

        self._wire.publish(self.name, key, frame)

    # --- by the clock ---

    def tick(self, now_ms: int) -> None:
        """Send what is due by time, and say that books are alive which have not changed for long."""
        if now_ms // BEST_MS != self._best_beat:
            self._best_beat = now_ms // BEST_MS
            for name in sorted(self._touched & self._figures.keys()):
                self._send_best(name, now_ms)
            self._touched.clear()
        for name, figures in self._figures.items():
            if now_ms - self._changed.setdefault(name, now_ms) >= self._keep_alive_ms:
                self._keep_alive(figures.symbol, now_ms)
        if now_ms // BEAT_MS == self._beat:
            return
        self._beat = now_ms // BEAT_MS
        self._look_after(now_ms)
        for name in list(self._chains):
            self._send_book(name, now_ms)
        for figures in self._figures.values():
            figures.roll(now_ms)
        wanted = self._wire.known(self.name) & self._streams.keys()
        for key in self._sent.keys() - wanted:
            del self._sent[key]
        for key in sorted(wanted):
            self._update(key, now_ms)
        for figures in self._figures.values():
            figures.closed.clear()

    def _look_after(self, now_ms: int) -> None:
        """Close sockets for the upgrade that was announced."""
        for client, session in list(self._sessions.items()):
            if client not in self._wire.clients:
                del self._sessions[client]
            elif session.closes_ms is not None and now_ms >= session.closes_ms:
                client.end(1001, "service upgrade")

    def _update(self, key: str, now_ms: int) -> None:
        """Send a stream that is due and has changed; a candle that is over at once."""
        name, value = self._streams[key]
        channel = CHANNELS[name]
        if channel.argument in ("instId", "index") and value not in (
            self._figures if channel.argument == "instId" else self._indices
        ):
            return
        if name.startswith("candle"):
            figures = self._figures[value]
            for bar in figures.closed.get(name.removeprefix("candle"), ()):
                self._send(key, [candle_row(figures, bar, is_closed=True)], push)
        every, state = channel.every_ms, self._state(name, value, now_ms)
        sent_ms, sent_state = self._sent.get(key, (0, None))
        if now_ms // every == sent_ms // every:
            return
        is_due = bool(channel.at_least_ms) and now_ms // channel.at_least_ms != sent_ms // channel.at_least_ms
        if state is not None and state == sent_state and not is_due:
            return
        self._sent[key] = now_ms, state
        rows = self._rows(name, value, now_ms)
        if rows:
            self._send(key, rows, push)

    def _state(self, name: str, value: str, now_ms: int) -> Any:
        """Give what differs when a stream has something new to say; None if it always has."""
        if name == "index-tickers":
            return self._indices[value].trades
        if name.startswith("candle"):
            figures = self._figures[value]
            return figures.trades, open_of(name.removeprefix("candle"), now_ms)
        if name in ("tickers", "books5"):
            figures = self._figures[value]
            return figures.books + (figures.trades if name == "tickers" else 0)
        if name == "mark-price":
            return mark_price(self._figures[value].symbol)
        if name == "open-interest":
            return open_interest(self._figures[value].symbol.listing, now_ms)
        return None

    def _rows(self, name: str, value: str, now_ms: int) -> list[Any]:
        """Give the rows of a stream that is sent by the clock."""
        match name:
            case "tickers":
                return [ticker_row(self._figures[value], now_ms)]
            case "index-tickers":
                return [index_row(self._indices[value], now_ms)]
            case "mark-price":
                return [mark_row(self._figures[value], now_ms)]
            case "open-interest":
                return [interest_row(self._figures[value], now_ms)]
            case "funding-rate":
                return [funding_row(self._figures[value].symbol.listing, now_ms)]
            case "opt-summary":
                return [option_row(figures, now_ms) for figures in self._families[value]]
            case "books5":
                symbol = self._figures[value].symbol
                bids, asks = ([[p, q, "0", "1"] for p, q in side] for side in symbol.book(5))
                return [{"asks": asks, "bids": bids, "instId": value, "ts": str(now_ms), "seqId": symbol.update_id}]
        figures = self._figures[value]
        figures.roll(now_ms)
        bar = figures.current(name.removeprefix("candle"))
        return [] if bar is None else [candle_row(figures, bar, is_closed=False)]

    def _keep_alive(self, symbol: Symbol, now_ms: int) -> None:
        """Send no levels, and ``prevSeqId`` equal to ``seqId``."""
        name, last = symbol.listing.venue_symbol, symbol.update_id
        self._send_book(name, now_ms)
        self._changed[name] = now_ms
        self._send(key_of("books", name), BookEvent(symbol.listing, last, last, last, (), (), now_ms), book_frame)

    # --- faults of this house ---

    def misbehave(self, kind: str) -> bool:
        """Do a fault that only this house knows; False if it does not."""
        match kind:
            case "reset":
                self.reset()
            case "keep_alive":
                self.keep_alive()
            case _:
                return False
        return True

    def keep_alive(self) -> None:
        """Say of every book that it is alive, now."""
        for figures in self._figures.values():
            self._keep_alive(figures.symbol, self._wire.now_ms())

    def reset(self) -> None:
        """Start the books' sequences afresh, as maintenance does: the next update's seqId is below its prevSeqId."""
        now_ms = self._wire.now_ms()
        for name, figures in self._figures.items():
            self._send_book(name, now_ms)
            figures.symbol.update_id = 1000
            self.publish(figures.symbol.change(now_ms))
            self._send_book(name, now_ms)

    # --- REST ---

    async def _rest(self, request: web.Request) -> web.Response:
        endpoint, query = request.match_info["endpoint"], request.query
        most, counted_by = LIMITS.get(endpoint, (20, ""))
        spent, now = self._spent[endpoint, query.get(counted_by, ""), request.remote], time.monotonic()
        while spent and spent[0] < now - 2:
            spent.popleft()
        if len(spent) >= most:
            self.rate_limited += 1
            return answer([], code="50011", message="Too Many Requests", status=429)
        spent.append(now)
        return self._rest_api.answer(endpoint, query, self._wire.now_ms())
