"""Running scenarios: everything prepared once, samples interleaved, all of it taken down at the end.

Round after round each subject gives one sample, and each round begins with another subject, so that neither a
slow minute of the machine nor a place in the order favours anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from zerofs.bench import corpus, host
from zerofs.bench.redisserver import RedisProcess
from zerofs.bench.samples import Spread, ratio, spread
from zerofs.bench.scenarios import Scenario
from zerofs.bench.subjects import SUBJECTS, Subject, Zerofs
from zerofs.errors import MountError, ZerofsError

BASE = Subject.name
Report = Callable[[str], None]


class Row(NamedTuple):
    """What one subject did in one scenario; no samples where it failed."""

    subject: str
    samples: list[float]
    failure: str | None

    @property
    def spread(self) -> Spread | None:
        return spread(self.samples) if self.samples else None


class Result(NamedTuple):
    """One scenario, all subjects."""

    scenario: Scenario
    rows: list[Row]

    def row(self, subject: str) -> Row | None:
        """The subject's row; None where it does not take part."""
        return next((row for row in self.rows if row.subject == subject), None)

    def ratio(self, row: Row) -> Spread | None:
        """Against the plain directory; None for itself and where that takes no part."""
        base = self.row(BASE)
        return None if base is None or base is row else ratio(row.samples, base.samples)


class Bench:
    """The trees, prepared for every subject that can take part here.

    `missing` says of the others why not.  A context manager: leaving it unmounts all and ends the server.
    """

    def __init__(self, workdir: Path, *, size: int, quick: bool, corpora: set[str], report: Report) -> None:
        self._workdir = workdir
        self._report = report
        self._size = size
        self._quick = quick
        self._wanted = corpora
        self._stack = ExitStack()
        self._subjects: dict[str, list[Subject]] = {}
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
        Zerofs.store = stack.enter_context(RedisProcess(self._workdir / "redis")).url
        if not host.can_go_cold():
            self.missing["cold scenarios"] = "dropping the kernel's caches takes root"
        for tree in self._corpora():
            self.origins[tree.name] = tree.origin
            self._subjects[tree.name] = []
            for kind in SUBJECTS:
                if (why := kind.missing()) is not None:
                    self.missing[kind.name] = why
                    continue
                self._report(f"preparing {kind.name}: {tree.origin}")
                subject = kind(tree, self._workdir)
                stack.callback(subject.unmount)
                try:
                    subject.prepare()
                    subject.mount()  # whether it can be mounted here shows only by doing it
                    subject.unmount()
                except MountError as error:
                    if kind is Zerofs:
                        raise
                    self.missing[kind.name] = str(error)
                    continue
                self._subjects[tree.name].append(subject)

    def _corpora(self) -> Iterator[corpus.Corpus]:
        if "image" in self._wanted:
            self._report("preparing the image")
            yield corpus.image(self._workdir, quick=self._quick)
        if "file" in self._wanted:
            self._report("preparing the large file")
            yield corpus.large_file(self._workdir, self._size)

    def run(self, scenario: Scenario, runs: int) -> Result | None:
        """Take `runs` samples of every subject; None where the scenario cannot run here."""
        if scenario.cold and not host.can_go_cold():
            return None
        subjects = [subject for subject in self._subjects[scenario.corpus] if scenario.takes(type(subject))]
        rows = {subject.name: Row(subject.name, [], None) for subject in subjects}
        for number in range(runs):
            self._report(f"{scenario.name}: run {number + 1} of {runs}")
            first = number % len(subjects)
            for subject in subjects[first:] + subjects[:first]:
                rows[subject.name] = self._sample(scenario, subject, rows[subject.name])
        return Result(scenario, list(rows.values()))

    @staticmethod
    def _sample(scenario: Scenario, subject: Subject, row: Row) -> Row:
        if row.failure is not None:
            return row
        try:
            return row._replace(samples=[*row.samples, scenario.sample(subject)])
        except (ZerofsError, OSError) as error:
            # One subject's failure is a result too; the others go on.
            return row._replace(samples=[], failure=" ".join(str(error).split()))
