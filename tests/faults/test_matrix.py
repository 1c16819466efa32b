"""Every fault beside every other, while the mount is read; at the end every byte of it is compared.

A pair strikes at once, each fault at one of the two replicas that have all chunks, or at the disk, or at the process.
All pairs are met, each on one of the engines; with ``--fault-product`` each on both, in a mount of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import combinations_with_replacement

import pytest

from tests.support.manifest import manifest
from zerofs.bench.soak.faults import FAULTS, Undo, World
from zerofs.bench.soak.place import Place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

ENGINES = ("fast", "llfuse")
GROUPS = 2
STAYS = 0.12  # seconds
PAIRS = list(combinations_with_replacement(FAULTS, 2))

Run = tuple[str, list[tuple[str, str]]]


def runs(config: pytest.Config) -> list[Run]:
    """(engine, the pairs that strike one mount of it, one after the other)."""
    if config.getoption("--fault-product"):
        return [(engine, [pair]) for engine in ENGINES for pair in PAIRS]
    each = [(engine, PAIRS[number :: len(ENGINES)]) for number, engine in enumerate(ENGINES)]
    return [(engine, pairs[group::GROUPS]) for engine, pairs in each for group in range(GROUPS)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run" in metafunc.fixturenames:
        found = runs(metafunc.config)
        names = [f"{engine}-{'+'.join(pairs[0])}-and-{len(pairs) - 1}-more" for engine, pairs in found]
        metafunc.parametrize("run", found, ids=[name.replace(" ", "-") for name in names])


def strike(world: World, pair: tuple[str, str]) -> list[Undo]:
    """Both faults at once; what is to be done so that they end."""
    undone = []
    for name, replica in zip(pair, world.stores.replicas, strict=True):
        if (undo := FAULTS[name].strike(world._replace(struck=(replica,)))) is not None:
            undone.append(undo)
    return undone


def test_pairs(run: Run, place: Callable[..., Place]) -> None:
    engine, pairs = run
    here = place(engine=engine)
    here.start_readers()
    possible = [pair for pair in pairs if all(FAULTS[name].needs(here.world) for name in pair)]
    for pair in possible:
        undone = strike(here.world, pair)
        time.sleep(STAYS)
        for undo in reversed(undone):
            undo()
        assert here.mounted.is_up(), f"ended under {pair}: {here.mounted.last_words()}"
    here.stop_readers()
    here.check()
    assert list(manifest(here.mounted.target)) == list(manifest(here.source))
    outcome = here.finish()
    assert not outcome.failed, outcome
    assert outcome.passes or not possible
    assert "Traceback" not in outcome.warnings


def test_every_fault_is_met_by_every_other_on_some_engine(pytestconfig: pytest.Config) -> None:
    met = {pair for _, pairs in runs(pytestconfig) for pair in pairs}
    assert met == set(PAIRS)
    assert {engine for engine, _ in runs(pytestconfig)} == set(ENGINES)
