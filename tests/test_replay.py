from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from marketprism_ray.errors import RecordingError
from marketprism_ray.recording import read_lines
from marketprism_ray.replay import replay_folder


def test_replay_equals_what_is_expected_of_a_correct_reader(recordings: Path) -> None:
    expected = json.loads((recordings / "expected.json").read_text())
    found = replay_folder(recordings)
    compared = 0
    for name, file in found.items():
        if name.endswith(".examples.jsonl"):
            wanted = dict(expected[name]["types"])
            # Ratios of the top traders by account are no data type of ours; each is named.
            without = wanted.pop("lsr_top_account", 0)
            assert (file["lines"], file["types"]) == (expected[name]["lines"], wanted)
            assert len([text for text in file["not_read"] if "lsr_top_account" in text]) == without
            assert len(file["not_read"]) == without
            compared += len(wanted)
            continue
        for segment, wanted in zip(file["segments"], expected[name]["segments"], strict=True):
            assert segment["id"] == wanted["id"]
            assert segment["errors"] == []
            for symbol, channels in wanted["symbols"].items():
                for channel, figures in channels.items():
                    got = segment["symbols"][symbol][channel]
                    for key, value in figures.items():
                        place = (name, segment["id"], symbol, channel, key)
                        assert got[key] == value, (*place, got[key], value)
                        compared += 1
    assert compared > 1_500


def frame(u_first: int, u_last: int, bid: str = "10.0", quantity: str = "1") -> str:
    data = {
        "e": "depthUpdate",
        "E": 1_700_000_000_000,
        "s": "AB",
        "U": u_first,
        "u": u_last,
        "b": [[bid, quantity]],
        "a": [],
    }
    return json.dumps({"stream": "ab@depth@100ms", "data": data})


def trade(t: int, price: str = "1.5") -> str:
    data = {
        "e": "trade",
        "E": 1,
        "s": "AB",
        "t": t,
        "p": price,
        "q": "2",
        "T": 1_700_000_000_000 + t,
        "m": True,
        "M": True,
    }
    return json.dumps({"stream": "ab@trade", "data": data})


def write(folder: Path, name: str, raws: list[str], url: str = "") -> None:
    lines = [
        {"t": 1700000000 + i / 10, "dir": "in", "channel": "x", "url": url, "raw": raw} for i, raw in enumerate(raws)
    ]
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))


def test_a_folder_without_expected_results_is_replayed_as_one_segment(tmp_path: Path) -> None:
    write(tmp_path, "binance_spot_x.jsonl.gz", [trade(1), trade(2), trade(4), trade(4), "{not json", frame(5, 6)])
    snapshot = json.dumps({"lastUpdateId": 4, "bids": [["9.0", "1"]], "asks": [["11.0", "2"]]})
    write(tmp_path, "binance_spot_x.rest.jsonl.gz", [snapshot], "http://h/api/v3/depth?symbol=AB&limit=5")
    (segment,) = replay_folder(tmp_path)["binance_spot_x.jsonl.gz"]["segments"]
    trades = segment["symbols"]["AB"]["trade"]
    assert (trades["count"], trades["missing"], trades["duplicates"]) == (3, 1, 1)
    book = segment["symbols"]["AB"]["depth@100ms"]
    assert (book["state"], book["best_bid"], book["best_ask"]) == ("live", ["10.0", "1"], ["11.0", "2"])
    assert len(segment["errors"]) == 1


def test_a_hole_in_the_deltas_takes_the_book_off_the_air(tmp_path: Path) -> None:
    write(tmp_path, "binance_spot.jsonl.gz", [frame(5, 6), frame(7, 8), frame(10, 11)])
    snapshot = json.dumps({"lastUpdateId": 4, "bids": [], "asks": []})
    write(tmp_path, "binance_spot.rest.jsonl.gz", [snapshot], "http://h/api/v3/depth?symbol=AB")
    (segment,) = replay_folder(tmp_path)["binance_spot.jsonl.gz"]["segments"]
    book = segment["symbols"]["AB"]["depth@100ms"]
    assert (book["gaps"], book["state"], book["applied"], book["best_bid"]) == (1, "syncing", 2, None)


def test_a_price_that_is_no_number_is_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    write(tmp_path, "binance_spot.jsonl.gz", [trade(1), trade(2, "NaN"), trade(3, "1e400"), trade(4)])
    (segment,) = replay_folder(tmp_path)["binance_spot.jsonl.gz"]["segments"]
    trades = segment["symbols"]["AB"]["trade"]
    assert (trades["count"], trades["errors"], trades["missing"]) == (2, 2, 2)


def test_a_recording_cut_short_by_a_crash_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "binance_spot.jsonl"
    path.write_text(json.dumps({"t": 1, "raw": trade(1)}) + "\n" + '{"t": 2, "raw": "{cut')
    cut: list[str] = []
    assert len(list(read_lines(path, cut))) == 1
    assert "line 2" in cut[0]


def test_a_damaged_file_is_said_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path, "binance_spot.jsonl.gz", [trade(n, f"{1 + random.Random(n).random():.8f}") for n in range(1, 3001)])
    whole = (tmp_path / "binance_spot.jsonl.gz").read_bytes()
    (tmp_path / "binance_spot-short.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "binance_spot-noise.jsonl.zst").write_bytes(random.Random(1).randbytes(3000))
    (tmp_path / "binance_spot-folder.jsonl").mkdir()
    found = replay_folder(tmp_path)
    assert found["binance_spot.jsonl.gz"]["segments"][0]["symbols"]["AB"]["trade"]["count"] == 3000
    assert "cut short" in found["binance_spot-short.jsonl.gz"]["segments"][0]["errors"][0]
    assert "nothing can be read" in found["binance_spot-noise.jsonl.zst"]["error"]
    assert len(found) == 3


def test_expected_results_that_are_no_object_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "binance_spot.jsonl.gz", [trade(1)])
    (tmp_path / "expected.json").write_text("[]")
    with pytest.raises(RecordingError, match="must be an object"):
        replay_folder(tmp_path)


def test_a_bad_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binance_spot.jsonl"
    path.write_text('{"t": 1}\n' + json.dumps({"t": 1, "raw": "x"}) + "\n")
    with pytest.raises(RecordingError, match=r"binance_spot.jsonl: line 1"):
        list(read_lines(path))


def test_a_folder_without_recordings_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"looked for .*okx_v5"):
        replay_folder(tmp_path)
