"""The server side of OKX v5: public and business sockets, one acknowledgement an argument, book chains, history."""

from __future__ import annotations

import json
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, plain
from marketprism_ray.simulator.summaries import last_day
from marketprism_ray.simulator.wire import Client, Wire

PATH_OF = {"trades-all": "business", "trades": "public", "books": "public", "bbo-tbt": "public"}
KEEP_ALIVE_S = 60.0
LIMITS = {"market/books": 40, "market/history-trades": 10, "market/trades": 100, "public/time": 10}


class Okx:
    """One simulated market of this house: ``okx_spot`` or ``okx_derivatives``."""

    def __init__(self, name: str, market: Market, wire: Wire, *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.name = name
        self._keep_alive_ms = keep_alive_s * 1000
        self._changed: dict[str, int] = {}
        self._market = market
        self._wire = wire
        self._spent: dict[str, deque[float]] = defaultdict(deque)
        self.rate_limited = 0

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

    def misbehave(self, kind: str) -> bool:
        """Do a fault that only this house knows; False if it does not."""
        if kind == "reset":
            self.reset()
        elif kind == "keep_alive":
            self.keep_alive()
        else:
            return False
        return True

    # --- sockets ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await self._wire.serve(request, self.name, request.match_info["path"], self._command, idle_s=30.0)

    def _command(self, client: Client, text: str) -> None:
        if text == "ping":
            client.send("pong")
            return
        try:
            command = json.loads(text)
            op, args = command["op"], [dict(arg) for arg in command["args"]]
            if op not in ("subscribe", "unsubscribe"):
                raise ValueError(op)
        except (ValueError, KeyError, TypeError):
            client.send('{"event":"error","code":"60012","msg":"Illegal request","connId":"a4d3ae55"}')
            return
        identity = {"id": command["id"]} if "id" in command else {}
        for arg in args:
            channel, symbol = arg.get("channel", ""), arg.get("instId", "")
            found = self._market.of_venue_symbol(self.name, symbol)
            if found is None or PATH_OF.get(channel) != client.path:
                message = f"Wrong URL or channel:{channel},instId:{symbol} doesn't exist. Please use the correct URL"
                client.send(
                    _text({**identity, "event": "error", "code": "60018", "msg": message, "connId": "a4d3ae55"})
                )
                continue
            key = _key(channel, symbol)
            client.send(_text({**identity, "event": op, "arg": arg, "connId": "a4d3ae55"}))
            if op == "unsubscribe":
                self._wire.unsubscribe(client, key)
                continue
            self._wire.subscribe(client, key)
            if channel == "books":
                client.send(self._snapshot(found))
            elif channel in ("trades", "trades-all") and found.truth.subscribed_from is None:
                found.truth.subscribed_from = found.trade_id + 1

    def _snapshot(self, symbol: Symbol) -> str:
        bids, asks = symbol.book(400)
        return (
            f'{{"arg":{_key("books", symbol.listing.venue_symbol)},'
            f'"action":"snapshot","data":[{{"asks":{_levels(asks)},'
            f'"bids":{_levels(bids)},"ts":"{_now()}","checksum":0,"prevSeqId":-1,"seqId":{symbol.update_id}}}]}}'
        )

    def notice(self) -> None:
        """Announce a service upgrade on every socket."""
        for client in self._wire.clients:
            if client.venue == self.name:
                message = "The connection will soon be closed for a service upgrade. Please reconnect."
                client.send(_text({"event": "notice", "code": "64008", "msg": message, "connId": "a4d3ae55"}))

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it."""
        symbol = event.listing.venue_symbol
        if isinstance(event, BookEvent):
            self._changed[symbol] = event.time_ms
            self._send("bbo-tbt", event, self._best)
            self._send("books", event, _book)
            return
        self._send("trades-all", event, _trade)
        self._send("trades", event, _counted_trade)

    def _best(self, key: str, event: BookEvent) -> str:
        bid, ask = self._market.symbols[self.name, event.listing.symbol].best()
        return (
            f'{{"arg":{key},"data":[{{"asks":{_levels([ask])},"bids":{_levels([bid])},'
            f'"ts":"{event.time_ms}","seqId":{event.last}}}]}}'
        )

    def tick(self, now_ms: int) -> None:
        """Say that books are alive which have not changed for long."""
        for symbol in self._market.of_venue(self.name):
            if now_ms - self._changed.setdefault(symbol.listing.venue_symbol, now_ms) >= self._keep_alive_ms:
                self._keep_alive(symbol, now_ms)

    def keep_alive(self) -> None:
        """Say so of every book, now."""
        for symbol in self._market.of_venue(self.name):
            self._keep_alive(symbol, _now())

    def _keep_alive(self, symbol: Symbol, now_ms: int) -> None:
        """Send no levels, and ``prevSeqId`` equal to ``seqId``."""
        self._changed[symbol.listing.venue_symbol] = now_ms
        last = symbol.update_id
        self._send("books", BookEvent(symbol.listing, last, last, last, (), (), now_ms), _book)

    def _send(self, channel: str, event: Any, write: Callable[[str, Any], str]) -> None:
        """Write a frame once, and only if a socket wants it."""
        key = _key(channel, event.listing.venue_symbol)
        made: list[str] = []

        def frame(_: Client) -> str:
            if not made:
                made.append(write(key, event))
            return made[0]

        self._wire.publish(self.name, key, frame)

    def reset(self) -> None:
        """Start the books' sequences afresh, as maintenance does: the next update's seqId is below its prevSeqId."""
        for symbol in self._market.of_venue(self.name):
            previous, symbol.update_id = symbol.update_id, 1000
            event = symbol.change(_now())
            self.publish(
                BookEvent(event.listing, event.first, event.last, previous, event.bids, event.asks, event.time_ms)
            )

    # --- REST ---

    async def _rest(self, request: web.Request) -> web.Response:
        endpoint, query = request.match_info["endpoint"], request.query
        spent, now = self._spent[endpoint], time.monotonic()
        while spent and spent[0] < now - 2:
            spent.popleft()
        if len(spent) >= LIMITS.get(endpoint, 20):
            self.rate_limited += 1
            return _answer([], code="50011", message="Too Many Requests", status=429)
        spent.append(now)
        if endpoint == "public/time":
            return _answer([{"ts": str(_now())}])
        if endpoint == "public/instruments":
            kind = query.get("instType", "")
            return _answer([_info(s) for s in self._market.of_venue(self.name) if _type(s) == kind])
        if endpoint == "market/tickers":
            kind = query.get("instType", "")
            return _answer([_ticker(s) for s in self._market.of_venue(self.name) if _type(s) == kind])
        symbol = self._market.of_venue_symbol(self.name, query.get("instId", ""))
        if symbol is None:
            return _answer([], code="51001", message="Instrument ID does not exist")
        if endpoint == "market/books":
            bids, asks = symbol.book(min(int(query.get("sz", 1)), 400))
            book = {"asks": [[p, q, "0", "1"] for p, q in asks], "bids": [[p, q, "0", "1"] for p, q in bids]}
            return _answer([{**book, "ts": str(_now()), "seqId": symbol.update_id}])
        if endpoint in ("market/trades", "market/history-trades"):
            most = 500 if endpoint == "market/trades" else 100
            borders = (query.get("after"), query.get("before")) if endpoint == "market/history-trades" else (None, None)
            by_time = query.get("type", "1") == "2"
            return _answer(_history(symbol, *borders, min(int(query.get("limit", 100)), most), by_time=by_time))
        if endpoint == "market/ticker":
            return _answer([_ticker(symbol)])
        return _answer([], code="50014", message=f"unknown endpoint {endpoint}", status=404)


def _trade(key: str, event: TradeEvent, more: str = "") -> str:
    side = "sell" if event.taker_sold else "buy"
    return (
        f'{{"arg":{key},"data":[{{"instId":"{event.listing.venue_symbol}","tradeId":"{event.id}","px":"{event.price}",'
        f'"sz":"{event.quantity}","side":"{side}","ts":"{event.time_ms}","source":"0"{more}}}]}}'
    )


def _counted_trade(key: str, event: TradeEvent) -> str:
    return _trade(key, event, f',"count":"1","seqId":{event.id}')


def _book(key: str, event: BookEvent) -> str:
    return (
        f'{{"arg":{key},"action":"update","data":[{{"asks":{_levels(event.asks)},"bids":{_levels(event.bids)},'
        f'"ts":"{event.time_ms}","checksum":0,"prevSeqId":{event.previous},"seqId":{event.last}}}]}}'
    )


def _now() -> int:
    return int(time.time() * 1000)


def _key(channel: str, symbol: str) -> str:
    return f'{{"channel":"{channel}","instId":"{symbol}"}}'


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _levels(levels: Any) -> str:
    return "[" + ",".join(f'["{p}","{q}","0","{0 if q == "0" else 1}"]' for p, q in levels) + "]"


def _answer(data: Any, *, code: str = "0", message: str = "", status: int = 200) -> web.Response:
    body = _text({"code": code, "msg": message, "data": data})
    return web.Response(text=body, status=status, content_type="application/json")


def _history(
    symbol: Symbol, after: str | None, before: str | None, limit: int, *, by_time: bool = False
) -> list[dict[str, Any]]:
    """Give trades older than ``after`` and newer than ``before`` (ids, or times in ms), newest first."""
    truth = symbol.truth
    column = truth.times_ms if by_time else truth.ids
    start = 0 if before is None else bisect_right(column, int(before))
    end = len(column) if after is None else bisect_left(column, int(after))
    return [
        {
            "instId": symbol.listing.venue_symbol,
            "tradeId": str(truth.ids[i]),
            "px": truth.prices[i],
            "sz": truth.quantities[i],
            "side": "sell" if truth.taker_sold[i] else "buy",
            "source": "0",
            "ts": str(truth.times_ms[i]),
        }
        for i in range(end - 1, max(end - limit, start) - 1, -1)
    ]


def _ticker(symbol: Symbol) -> dict[str, str]:
    now = _now()
    day, ((bid, bid_size), (ask, ask_size)) = last_day(symbol.truth, now), symbol.best()
    return {
        "instType": _type(symbol),
        "instId": symbol.listing.venue_symbol,
        "last": day.close if day else "",
        "lastSz": symbol.truth.quantities[-1] if day else "",
        "askPx": ask,
        "askSz": ask_size,
        "bidPx": bid,
        "bidSz": bid_size,
        "open24h": day.open if day else "",
        "high24h": day.high if day else "",
        "low24h": day.low if day else "",
        "vol24h": plain(day.volume) if day else "0",
        "ts": str(now),
    }


def _type(symbol: Symbol) -> str:
    return {"spot": "SPOT", "perpetual": "SWAP", "futures": "FUTURES", "option": "OPTION"}[symbol.listing.market_type]


def _info(symbol: Symbol) -> dict[str, Any]:
    listing = symbol.listing
    size, kind = listing.contract or ("", "")
    swap = listing.contract is not None
    return {
        "instType": _type(symbol),
        "instId": listing.venue_symbol,
        "uly": f"{listing.base}-{listing.quote}" if swap else "",
        "instFamily": f"{listing.base}-{listing.quote}" if swap else "",
        "baseCcy": "" if swap else listing.base,
        "quoteCcy": "" if swap else listing.quote,
        "settleCcy": "" if not swap else listing.base if kind == "inverse" else listing.quote,
        "ctVal": size,
        "ctMult": "1" if swap else "",
        "ctValCcy": "" if not swap else listing.quote if kind == "inverse" else listing.base,
        "ctType": kind,
        "optType": "",
        "stk": "",
        "listTime": "1573557408000",
        "expTime": "",
        "lever": "10",
        "tickSz": plain(listing.tick),
        "lotSz": plain(listing.lot),
        "minSz": plain(listing.lot),
        "state": "live",
        "ruleType": "normal",
        "instCategory": "1",
    }
