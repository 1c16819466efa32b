"""What `zerofs stats` and `zerofs top` print, from documents as a mount makes them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from zerofs.cli import figures
from zerofs.cli.change import Change, Look
from zerofs.cli.exposition import exposition
from zerofs.cli.figures import duration, number, percent
from zerofs.errors import MountError
from zerofs.histogram import Histogram
from zerofs.mount.inquiry import Answer, Served

PREFETCH = {
    "demanded": 100, "hits": 10, "used": 70, "late": 5, "missed": 15, "prefetched": 90, "wasted": 15,
    "known_misses": 2, "prefetched_bytes": 9 << 20, "used_bytes": 7 << 20, "precision": 0.8333, "recall": 0.8334,
    "something_new": 4321,
}  # fmt: skip


def latency(*seconds: float) -> dict[str, object]:
    histogram = Histogram()
    for each in seconds:
        histogram.add(each)
    return histogram.as_dict()


def store(name: str, **counts: object) -> dict[str, object]:
    keys = (
        "requests", "chunks", "bytes", "missing", "errors", "retries", "written", "written_bytes", "rejected"
    )  # fmt: skip
    return {"store": name, "state": "good", **dict.fromkeys(keys, 0), "latency": latency(), **counts}


@pytest.fixture
def document() -> Any:
    return made_document()


def made_document() -> Any:
    """What a mount answers with."""
    fetch = (
        "demanded", "from_memory", "from_cache", "joined", "remembered_failures", "requested", "fetched",
        "fetched_bytes", "plain_bytes", "failures", "timeouts", "verify_failures", "cached", "uncached",
    )  # fmt: skip
    return {
        "mount": {
            "process": 42, "target": "/mnt", "device": "0:7",
            "flists": ["/x\x1b[31m.flist"], "engine": "fast", "union": True,
            "uptime": 100.0, "names": 12345, "chunks": 99, "bytes": 5 << 30,
        },
        "reads": {"answered": 5000, "bytes": 3 << 30, "waited": 50, "waiting": 1, "failed": 0},
        "fetch": {**dict.fromkeys(fetch, 0), "demanded": 60, "fetched": 50, "latency": latency(0.02, 0.03)},
        "stores": [store("redis://a:1", chunks=30, bytes=1000), store("redis://b:2")],
        "write_back": {"written": 0, "dropped": 0},
        "cache": {
            "directory": "/cache", "entries": 7, "used": 1 << 20, "size_limit": 4 << 20, "stored": 5,
            "file": 2 << 20, "free_limit": 0, "evicted": 4, "refused": 3, "damaged": 0, "errors": 0, "replaced": 0,
        },
        "prefetch": None,
    }  # fmt: skip


def lines_of(change: Change) -> list[str]:
    return list(figures.page(change))


def row(change: Change, label: str) -> list[str]:
    (found,) = [line for line in lines_of(change) if line.strip().startswith(label)]
    return found.replace(label, "", 1).split()


def test_since_the_mount_began(document: Any) -> None:
    change = Change(None, document)
    assert row(change, "answered") == ["5,000", "50"]
    assert row(change, "asked for by readers") == ["60", "0.6"]
    assert row(change, "readers waited")[:3] == ["p50", "20.5", "ms,"]
    assert "prefetch  off" in lines_of(change)
    assert any("25.0 %" in line for line in lines_of(change))  # of the cache
    assert row(change, "3 did") == ["not", "fit"]
    assert not any("timed out" in line for line in lines_of(change))  # did not happen
    assert "\x1b" not in "".join(lines_of(change))


def test_between_two_looks(document: Any) -> None:
    now = copy.deepcopy(document)
    now["mount"]["uptime"] = 102.0
    now["reads"]["answered"] += 10
    now["fetch"]["latency"] = latency(0.02, 0.03, 5.0)
    now["stores"][1].update(bytes=4 << 20, chunks=8)
    change = Change(document, now)
    assert change.seconds == 2.0
    assert row(change, "answered") == ["5,010", "5"]
    assert change.latency()["p50"] == 5.0  # that of now, not of the whole time
    assert change.stores[0].rate("bytes") == 0 and change.stores[1].rate("bytes") == 2 << 20
    assert change.as_dict()["stores"]["redis://b:2"]["chunks"] == 4.0  # type: ignore[index]


@pytest.mark.parametrize("number", [{"device": "0:8"}, {"process": 43}])
def test_another_mount_at_the_same_place_starts_anew(document: Any, number: dict[str, object]) -> None:
    now = copy.deepcopy(document)
    now["mount"].update(number, uptime=1.0)
    assert Change(document, now).rate("reads", "answered") == 5000


def test_prefetch(document: Any) -> None:
    document["prefetch"] = PREFETCH
    change = Change(None, document)
    assert row(change, "brought in time") == ["70", "0.7"]
    assert row(change, "not wanted so far") == ["15", "0.15"]
    assert row(change, "missed, though known") == ["2", "0.02"]
    assert row(change, "precision") == ["83.3", "%"] and row(change, "recall") == ["83.3", "%"]
    assert row(change, "prefetched bytes")[:2] == ["9.0", "MiB"]
    assert row(change, "something new") == ["4,321", "43"]
    rates: Any = change.as_dict()["prefetch"]
    assert rates["used"] == 0.7 and "precision" not in rates
    table = list(figures.overview([Look(Answer(Served("/mnt", 42, 0, "0:7"), document))]))
    assert table[1].endswith("80.0 %")


def test_prefetch_that_begins_between_two_looks(document: Any) -> None:
    now = {**document, "mount": {**document["mount"], "uptime": 110.0}, "prefetch": PREFETCH}
    assert Change(document, now).rate("prefetch", "used") == 7.0


def test_all_mounts(document: Any) -> None:
    silent = Answer(Served("/other", 7, 0, "0:8"), None, "process 7, which serves /other, does not answer")
    table = list(figures.overview([Look(Answer(Served("/mnt", 42, 0, "0:7"), document)), Look(silent)]))
    assert table[0].startswith("MOUNTPOINT") and table[1].startswith("/mnt") and "1.0 %" in table[1]
    assert table[2] == "process 7, which serves /other, does not answer"
    assert list(figures.overview([Look(silent)])) == table[2:]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.0, "0 µs"), (0.0005, "500 µs"), (0.0123, "12.3 ms"), (0.5, "500 ms"), (1.25, "1.2 s"),
        (119.6, "120 s"), (3600, "60 min"), (3 * 3600 + 120, "3 h 2 min"), (5 * 86400, "5 days"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_and_shares() -> None:
    assert [number(value) for value in (0, 0.123, 3.14159, 12.3, 12345.6)] == [
        "0",
        "0.12",
        "3.1",
        "12",
        "12,346",
    ]
    assert percent(1, 3) == "33.3 %" and percent(1, 0) == "-"


# -- for Prometheus ------------------------------------------------------------------------------


def test_metrics(document: Any) -> None:
    document["prefetch"] = PREFETCH
    silent = Answer(Served('/ot"her', 7, 0, "0:8"), None, "process 7 does not answer")
    here_twice = [Look(Answer(Served("/mnt", 42, 0, "0:7"), document))] * 2  # one mount over another
    lines = list(exposition([*here_twice, Look(silent)]))
    assert len(lines) == len(set(lines))
    here = 'mountpoint="/mnt"'
    for line in (
        "# TYPE zerofs_up gauge",
        f"zerofs_up{{{here}}} 1",
        'zerofs_up{mountpoint="/ot\\"her"} 0',
        "# TYPE zerofs_reads_bytes_total counter",
        f"zerofs_reads_bytes_total{{{here}}} {3 << 30}",
        "# TYPE zerofs_reads_waiting gauge",
        f"zerofs_reads_waiting{{{here}}} 1",
        f"zerofs_cache_used{{{here}}} {1 << 20}",
        f"zerofs_prefetch_something_new_total{{{here}}} 4321",
        f'zerofs_store_chunks_total{{{here},store="redis://a:1"}} 30',
        "# TYPE zerofs_fetch_latency_seconds summary",
        f"zerofs_fetch_latency_seconds_count{{{here}}} 2",
        f"zerofs_fetch_latency_seconds_sum{{{here}}} 0.05",
    ):
        assert line in lines, line
    assert [line for line in lines if line.startswith("# TYPE")] == sorted(
        {line for line in lines if line.startswith("# TYPE")}
    )  # each metric in one piece
    assert not [line for line in lines if "precision" in line or ("/ot" in line and "_up" not in line)]


@pytest.mark.parametrize("name", ["/\udcff", "/\ud800"])  # a byte that is no text, and half of a character
def test_names_that_are_no_text(document: Any, name: str) -> None:
    document["stores"] = [{"store": name, "chunks": 3}, {"store": [name], "chunks": 4}]
    lines = list(exposition([Look(Answer(Served(name, 42, 0, "0:7"), document))]))
    escaped = name.encode("utf-8", "backslashreplace").decode().replace("\\", "\\" * 4)
    assert f'zerofs_up{{mountpoint="{escaped}"}} 1' in lines
    assert [line for line in lines if "_store_chunks" in line and "TYPE" not in line] == [
        f'zerofs_store_chunks_total{{mountpoint="{escaped}",store="{escaped}"}} 3'
    ]
    "\n".join(lines).encode()


def test_mount_points_that_are_no_text(document: Any) -> None:
    document["mount"]["target"] = "/\ud800"
    assert figures.page(Change(None, document))[0].startswith("/\\\\ud800: ")
    with pytest.raises(MountError, match="does not say"), figures.understood("/\ud800"):
        raise ValueError


def test_metrics_of_what_makes_no_sense(document: Any) -> None:
    """The document may be another user's: it cannot forge a line."""
    document["reads"] = {
        'x 1\nzerofs_up{mountpoint="/"} 0': 1,
        "bytes": 10**400,
        "failed": "many",
        "answered": True,
    }
    document["fetch"] = {"latency": {"count": 2, "mean": float("inf"), "p50": "x"}}
    document["stores"] = [None, {"store": 'a"\n', "chunks": 3}, 7]
    document["cache"] = []
    lines = list(exposition([Look(Answer(Served("/mnt", 42, 0, "0:7"), document))]))
    assert not [line for line in lines if "zerofs_reads" in line or "\n" in line or 'point="/"' in line]
    assert 'zerofs_store_chunks_total{mountpoint="/mnt",store="a\\"\\\\n"} 3' in lines
