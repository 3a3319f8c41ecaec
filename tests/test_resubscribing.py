"""A stream that stays broken is asked for anew with patience, and a socket keeps the venue's hourly limit."""

from __future__ import annotations

import json

from conftest import instrument
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.batching import Batcher
from marketprism_ray.book_stream import BookStream
from marketprism_ray.feed import Feed, Send
from marketprism_ray.resubscribing import HOUR_NS, HourlyRequests, Patience
from marketprism_ray.venue import Venue
from marketprism_ray.venues import VENUES

OKX, DERIBIT = VENUES["okx_spot"], VENUES["deribit_derivatives"]
SECOND = 1_000_000_000
T0 = 1_795_132_800 * SECOND


@given(st.lists(st.integers(0, 120 * SECOND), max_size=400), st.integers(1, 50))
def test_no_hour_has_more_requests_than_the_limit(pauses: list[int], limit: int) -> None:
    hourly = HourlyRequests(limit)
    now, sent = T0, []
    for pause in pauses:
        now += pause
        if hourly.allows(1, now):
            hourly.sent(now)
            sent.append(now)
        assert len([time for time in sent if time > now - HOUR_NS]) <= limit


def test_patience_doubles_and_is_given_back_after_calm() -> None:
    patience = Patience()
    asked = []
    for second in range(1000):
        if patience.is_due(T0 + second * SECOND):
            patience.asked(T0 + second * SECOND)
            asked.append(second)
    assert asked == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811]
    assert not patience.is_due(T0 + 812 * SECOND)
    assert patience.is_due(T0 + 2000 * SECOND)
    patience.asked(T0 + 2000 * SECOND)
    assert patience.is_due(T0 + 2001 * SECOND)


def book_feed(venue: Venue, count: int, **item: str) -> tuple[Feed, list[BookStream]]:
    batcher = Batcher("c", 1)
    books = [
        BookStream(
            venue,
            venue.channel("orderbook"),
            instrument(exchange_name=venue.name, venue_symbol=f"C{n:02d}-USDT", symbol_name=f"C{n:02d}-USDT", **item),
            batcher,
            keep=100,
            interval_s=1,
        )
        for n in range(count)
    ]
    feed = Feed(venue, books[0].channel.endpoint, books)
    feed.opened(T0)
    return feed, books


def crossed(book: BookStream) -> bytes:
    level = ["1", "0", "1"]
    data = {"bids": [["10", *level]], "asks": [["9", *level]], "ts": "1795132800000", "checksum": 0}
    item = {"channel": "books", "instId": book.instrument.venue_symbol}
    return json.dumps(
        {"arg": item, "action": "snapshot", "data": [data | {"prevSeqId": -1, "seqId": 5}]}, separators=(",", ":")
    ).encode()


def test_books_that_come_crossed_again_and_again_do_not_use_up_the_venues_limit() -> None:
    feed, books = book_feed(OKX, 30)
    for second in range(3600):
        now = T0 + second * SECOND
        for book in books:
            feed.frame(crossed(book), now)
        feed.tick(now)
    sent = [json.loads(action.text)["op"] for action in feed.actions if isinstance(action, Send)]
    assert len(sent) <= 480
    assert len(sent) > 300, "but all of it is used to get them well again"
    assert feed.counts["resubscribed"] == sent.count("unsubscribe")


def test_a_book_whose_pushed_snapshot_never_comes_is_asked_for_again_where_there_is_no_other_way() -> None:
    feed, (book,) = book_feed(DERIBIT, 1)
    assert book.codec.snapshot is None
    for second in range(120):
        feed.tick(T0 + second * SECOND)
        for action in list(feed.actions):
            if isinstance(action, Send) and '"public/subscribe"' in action.text:
                request = json.loads(action.text)
                answer = {"jsonrpc": "2.0", "id": request["id"], "result": request["params"]["channels"]}
                feed.frame(json.dumps(answer).encode(), T0 + second * SECOND)
        feed.actions.clear()
    assert 2 <= feed.counts["resubscribed"] <= 7
