"""The two runs of a soak: a fault each second, and kills at random instants."""

from __future__ import annotations

import contextlib
import heapq
import random
import time
from collections.abc import Callable
from pathlib import Path

from zerofs.bench.soak.faults import FAULTS, Undo
from zerofs.bench.soak.outcome import Outcome
from zerofs.bench.soak.place import Place, Settings, make_stores
from zerofs.bench.soak.stores import Stores
from zerofs.errors import MountError

Report = Callable[[str], None]
BEAT = 1.0  # seconds between faults
_SHORTEST, _LONGEST = 0.2, 2.5  # seconds that a fault stays: some overlap


def soak(workdir: Path, settings: Settings, minutes: float, report: Report) -> Outcome:
    """A fault each second for so many minutes, then all healed, the whole tree compared, and the cache proved."""
    with _stores(workdir, settings) as stores, Place(workdir, stores, settings) as place:
        world, outcome = place.world, place.outcome
        possible = [name for name, kind in FAULTS.items() if kind.needs(world)]
        outcome.skipped = [name for name in FAULTS if name not in possible]
        outcome.faults = dict.fromkeys(possible, 0)
        pending: list[tuple[float, int, Undo]] = []  # when, which, how: faults to be undone
        place.start_readers()
        watch = place.watch_cache()
        began = time.monotonic()
        number = 0
        while time.monotonic() < began + minutes * 60:
            name = place.world.chance.choice(possible)
            undo = None
            with contextlib.suppress(MountError):  # which is counted where it is raised
                undo = FAULTS[name].strike(world)
            if undo is not None:
                stays = place.world.chance.uniform(_SHORTEST, _LONGEST)
                heapq.heappush(pending, (time.monotonic() + stays, number, undo))
            outcome.faults[name] += 1
            number += 1
            report(
                f"{number} faults, the last one {name}; {(time.monotonic() - began) / 60:.1f} of {minutes:g} minutes"
            )
            _undo(pending, began + number * BEAT)
            world.mounted.ensure()
        for _, _, undo in sorted(pending, key=lambda each: each[:2]):
            undo()
        world.stores.heal()
        outcome.duration = time.monotonic() - began
        place.stop_readers()
        world.mounted.ensure()
        place.check()
        outcome.cache = watch.end()
        place.finish()
        place.prove_cache()
        return outcome


def _stores(workdir: Path, settings: Settings) -> Stores:
    return make_stores(workdir, random.Random(settings.seed), settings.tree_size)


def _undo(pending: list[tuple[float, int, Undo]], until: float) -> None:
    """Undo what is due, and wait for the next beat."""
    while pending and pending[0][0] <= until:
        when, _, undo = heapq.heappop(pending)
        time.sleep(max(0.0, when - time.monotonic()))
        undo()
    time.sleep(max(0.0, until - time.monotonic()))


def kills(workdir: Path, settings: Settings, count: int, report: Report) -> Outcome:
    """SIGKILL at random instants of a mixed load; after each the mount serves again, and tree and cache are proved."""
    with _stores(workdir, settings) as stores, Place(workdir, stores, settings) as place:
        outcome, mounted = place.outcome, place.mounted
        outcome.faults = {"SIGKILL": 0}
        watch = place.watch_cache()
        began = time.monotonic()
        place.start_readers()
        for number in range(1, count + 1):
            time.sleep(place.world.chance.uniform(0.1, 0.9))
            with contextlib.suppress(MountError):  # which is counted where it is raised
                mounted.kill()
            outcome.faults["SIGKILL"] += 1
            mounted.ensure()
            place.check()
            place.prove_cache()
            last = mounted.starts[-1] if mounted.starts else 0.0
            report(f"{number} of {count} kills; the mount served again after {last:.3f} s")
        outcome.duration = time.monotonic() - began
        place.stop_readers()
        outcome.cache = watch.end()
        return place.finish()
