"""Every harness for a moment, the same inputs each time, and every input that is kept."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import CORPUS, NAMES, harness, kept
from tests.fuzz.mutation import inputs

EXAMPLES = {"rocksdb": 20, "index": 60, "control": 60, "sqlite": 60, "fungi": 60, "kernel": 60}
USUALLY = 150
MOST_SECONDS = 60  # for one input; a bound on hanging, not on speed
MOST_MEMORY = 512 << 20  # bytes that a run may grow by


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fails where it takes for ever, or much memory."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"it takes more than {MOST_SECONDS} seconds")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY


@pytest.mark.parametrize("name", NAMES)
def test_what_holds_of_any_bytes(name: str, tmp_path: Path) -> None:
    target, samples = harness(name)

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=EXAMPLES.get(name, USUALLY),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(samples()))
    def run(data: bytes) -> None:
        try:
            with bounded():
                target(bytes(data))
        except BaseException:
            (tmp_path / "input").write_bytes(data)  # the last one is the smallest
            raise

    run()


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_sound(name: str) -> None:
    target, samples = harness(name)
    for sample in samples():
        target(sample)


@pytest.mark.parametrize(
    "path",
    [path for name in NAMES for path in kept(name)],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_kept(path: Path) -> None:
    with bounded():
        accepted = harness(path.parent.name).target(path.read_bytes())
    if path.name.startswith("should-fail"):
        assert accepted is False


def test_nothing_is_kept_for_nobody() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(NAMES)
