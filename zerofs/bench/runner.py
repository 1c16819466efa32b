"""Running scenarios: everything prepared once, samples interleaved, all of it taken down at the end.

Round after round each subject gives one sample, and each round has an order of its own (the same in every run), so
that neither a slow minute of the machine nor a place in the order, nor a neighbour, favours anybody.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from zerofs.bench import corpus, host
from zerofs.bench.ours import DoNothing, Zerofs, ZerofsLlfuse
from zerofs.bench.peers import Erofs, KernelSquashfs, Ratarmount, Squashfuse
from zerofs.bench.redisserver import RedisProcess
from zerofs.bench.samples import Spread, ratio, spread
from zerofs.bench.scenarios import Scenario
from zerofs.bench.subjects import Plain, Subject
from zerofs.bench.work import Load, compile_helper
from zerofs.errors import ZerofsError

SUBJECTS: tuple[type[Subject], ...] = (
    *(Plain, Zerofs, ZerofsLlfuse, DoNothing, Squashfuse, Ratarmount, KernelSquashfs, Erofs),
)
BASE = Plain.name
Report = Callable[[str], None]


class Heading(Protocol):
    """What is said of a scenario."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...


class Row:
    """What one subject did in one scenario; no samples where it failed."""

    def __init__(self, subject: str, samples: dict[int, float], failure: str | None = None) -> None:
        self.subject = subject
        self.samples = samples  # round → seconds, or what the scenario's unit is
        self.failure = failure
        self.details: dict[str, dict[int, float]] = {}  # what else was measured, by its name, as the samples

    @property
    def spread(self) -> Spread | None:
        return self.of()

    def of(self, detail: str | None = None) -> Spread | None:
        """The spread of the samples, or of a detail."""
        values = self.values(detail)
        return spread([*values.values()]) if values else None

    def values(self, detail: str | None = None) -> dict[int, float]:
        """The samples, or those of a detail."""
        return self.samples if detail is None else self.details.get(detail, {})


class Result(NamedTuple):
    """One scenario, all subjects."""

    scenario: Heading
    rows: dict[str, Row]

    def ratio(self, subject: str, base: str = BASE, detail: str | None = None) -> Spread | None:
        """How many times the one's time, or detail, the other's is; None where there is nothing to say."""
        row, other = self.rows.get(subject), self.rows.get(base)
        if row is None or other is None or row is other or self.scenario.unit == "ratio":
            return None
        return ratio(row.values(detail), other.values(detail))


class Pace(NamedTuple):
    """How often a scenario is sampled.

    In every round of the first `least`, and of as many more as half of `seconds` allows, everybody takes part.
    After that only those who always do, until there are `most` rounds or time is over.
    """

    most: int
    least: int
    seconds: float

    def goes_on(self, done: int, elapsed: float) -> bool:
        return done < self.least or (done < self.most and elapsed < self.seconds)

    def takes_everybody(self, done: int, elapsed: float) -> bool:
        return done < self.least or elapsed < self.seconds / 2


class Bench:
    """The trees, prepared for every subject that can take part here.

    `missing` says of the others why not.  A context manager: leaving it unmounts all and ends the server.
    """

    def __init__(
        self, workdir: Path, *, size: int, quick: bool, scenarios: list[Scenario], report: Report
    ) -> None:
        self._workdir = workdir
        self._report = report
        self._size = size
        self._quick = quick
        self._scenarios = scenarios
        self._stack = ExitStack()
        self._subjects: dict[str, list[Subject]] = {}
        self._loads: dict[str, Load] = {}
        self._up: list[Subject] = []  # mounted, and to stay so for the next scenario
        self.origins: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Bench:
        with ExitStack() as stack:
            self._prepare(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _prepare(self, stack: ExitStack) -> None:
        redis = stack.enter_context(RedisProcess(self._workdir / "redis"))
        Zerofs.store = ZerofsLlfuse.store = DoNothing.store = redis.url
        if not host.can_go_cold():
            self.missing["cold scenarios"] = "dropping the kernel's caches takes root"
        helper = compile_helper(self._workdir)
        for tree in self._corpora():
            self.origins[tree.name] = tree.origin
            self._loads[tree.name] = Load(helper, tree, self._workdir)
            self._subjects[tree.name] = []
            for kind in SUBJECTS:
                if any(scenario.corpus == tree.name and scenario.takes(kind) for scenario in self._scenarios):
                    self._prepare_subject(kind, tree, stack)

    def _prepare_subject(self, kind: type[Subject], tree: corpus.Corpus, stack: ExitStack) -> None:
        if (why := kind.missing()) is not None:
            self.missing[kind.name] = why
            return
        self._report(f"preparing {kind.name}: {tree.origin}")
        subject = kind(tree, self._workdir)
        stack.callback(subject.unmount)
        try:
            subject.prepare()
            subject.mount()  # whether it can be mounted here shows only by doing it
            subject.unmount()
        except ZerofsError as error:
            if kind.ours:
                raise
            self.missing[kind.name] = str(error)
        else:
            self._subjects[tree.name].append(subject)

    def _corpora(self) -> Iterator[corpus.Corpus]:
        wanted = {scenario.corpus for scenario in self._scenarios}
        if "image" in wanted:
            self._report("preparing the image")
            yield corpus.image(self._workdir, quick=self._quick)
        if "file" in wanted:
            self._report("preparing the large file")
            yield corpus.large_file(self._workdir, self._size, quick=self._quick)

    def run(self, scenario: Scenario, pace: Pace) -> Result | None:
        """Sample every subject; None where the scenario cannot run here."""
        if scenario.drops and not host.can_go_cold():
            return None
        subjects = [subject for subject in self._subjects[scenario.corpus] if scenario.takes(type(subject))]
        load = self._loads[scenario.corpus]
        rows = {subject.name: Row(subject.name, {}) for subject in subjects}
        begun = time.monotonic()
        if scenario.begin is None:
            self._take_down()
        else:
            self._report(f"{scenario.name}: mounting")
            for subject in subjects:
                with self._failure_noted(rows, subject):
                    self._put_up(subject)
                    scenario.begin(subject, load)
        number = 0
        while pace.goes_on(number, elapsed := time.monotonic() - begun):
            self._report(f"{scenario.name}: round {number + 1}")
            everybody = pace.takes_everybody(number, elapsed)
            for subject in random.Random(number).sample(subjects, len(subjects)):
                row = rows[subject.name]
                if row.failure is None and (everybody or subject.always):
                    with self._failure_noted(rows, subject):
                        row.samples[number] = scenario.sample(subject, load)
            number += 1
        return Result(scenario, rows)

    def _put_up(self, subject: Subject) -> None:
        """Have it mounted, until the next scenario for which nothing may be."""
        if subject not in self._up:
            subject.fill()
            subject.mount()
            self._up.append(subject)

    def _take_down(self) -> None:
        while self._up:
            self._up.pop().unmount()

    @contextmanager
    def _failure_noted(self, rows: dict[str, Row], subject: Subject) -> Iterator[None]:
        """One subject's failure is a result too; the others go on, and it gets a new mount for the next scenario."""
        try:
            yield
        except (ZerofsError, OSError) as error:
            rows[subject.name] = Row(subject.name, {}, " ".join(str(error).split()))
            if subject in self._up:
                self._up.remove(subject)
                subject.unmount()
