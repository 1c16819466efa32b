"""Running cold starts: everything prepared once, then rounds over an emulated link.

A round takes one sample of every way to start (see `starts`), of every workload, on every link: everything unmounted,
the cache emptied but where the start is warm, the kernel's caches dropped; then the clock runs from the exec of the
mount command to the workload's first output.  zerofs' own programs have been in memory before: it is the image that is
cold, not the host.

One full pull of a round serves all workloads of a link, which run from the unpacked tree right after it.  Warm
starts with and without prefetch are besides repeated in turns, with the kernel's caches as they are: short and quiet
enough to say what prefetch costs where it has nothing to do.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from zerofs.bench import corpus, host, workloads
from zerofs.bench.coldstart import Start
from zerofs.bench.line import Conditions
from zerofs.bench.linkprocess import LinkProcess, Passed
from zerofs.bench.measured import Measured, measure, prefetch_counters
from zerofs.bench.redisserver import RedisProcess
from zerofs.bench.runner import Pace, Report, Result, Row
from zerofs.bench.starts import FETCHING, MOUNTED, NAMES, FullPull, Lazy, Profile, Warm
from zerofs.errors import BackendError, ZerofsError
from zerofs.store.redis import RespStore
from zerofs.store.url import parse_store_url

_PATIENCE = 60.0  # seconds
_AGAIN = 5  # further warm starts of a round


class ColdBench:
    """The image, packed as a flist and as an archive, behind links; a context manager that takes it all down.

    `missing` says what cannot be measured here, and why.
    """

    def __init__(self, workdir: Path, *, quick: bool, starts: Sequence[Start], report: Report) -> None:
        self._workdir = workdir.resolve()
        self._quick = quick
        self._starts = starts
        self._report = report
        self._stack = ExitStack()
        self._links: dict[Conditions, LinkProcess] = {}
        self._modes: list[Lazy] = []
        self._wanted: dict[str, int] = {}  # workload → bytes in the store of the chunks that it wants
        self._rows: dict[str, dict[str, Row]] = {}
        self.origins: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> ColdBench:
        if not host.can_go_cold():
            raise BackendError(
                "a cold start takes root", hint="it drops the kernel's caches and runs programs in a chroot"
            )
        with ExitStack() as stack:
            self._prepare(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _prepare(self, stack: ExitStack) -> None:
        self._report("preparing the image")
        self._redis = stack.enter_context(RedisProcess(self._workdir / "redis"))
        self._image = corpus.image(self._workdir, quick=self._quick)
        self._guest = "Debian" in self._image.origin
        self._select()
        for conditions in dict.fromkeys(start.conditions for start in self._starts):
            link = LinkProcess((self._redis.host, self._redis.port), conditions, self._workdir)
            self._links[conditions] = stack.enter_context(link)
        self._report("preparing the archive")
        self._pull = FullPull(self._image, self._workdir)
        self._pull.prepare(self._redis.url)
        Lazy.store = self._redis.url
        self._rehearsal = Warm(self._small_image(), self._workdir)
        self._rehearsal.prepare()
        for kind in MOUNTED:
            self._prepare_mode(kind, stack)
        flist = self._workdir / f"{self._image.name}.flist"
        self.origins["image"] = (
            f"{self._image.origin}; flist {_mib(flist.stat().st_size)}, on the host beforehand; "
            f"archive {_mib(self._pull.size)} ({self._pull.compressor})"
        )
        self._rows = {start.name: {} for start in self._starts}

    def _select(self) -> None:
        """Leave out what the image has no program for."""
        possible = []
        for start in self._starts:
            if not self._guest and start.workload.guest:
                self.missing[start.workload.name] = "no Debian image could be had"
            elif not workloads.is_possible(start.workload, self._image.directory):
                self.missing[start.workload.name] = f"the image has no {start.workload.needs}"
            else:
                possible.append(start)
        self._starts = possible

    def _small_image(self) -> corpus.Corpus:
        directory = self._workdir / "small"
        directory.mkdir()
        (directory / "file").write_bytes(b"small\n")
        return corpus.Corpus("small", directory, "one file")

    def _prepare_mode(self, kind: type[Lazy], stack: ExitStack) -> None:
        if (why := kind.missing()) is not None:
            self.missing[kind.name] = why
            return
        self._report(f"preparing {kind.name}")
        mode = kind(self._image, self._workdir)
        stack.callback(mode.unmount)
        mode.prepare()
        if isinstance(mode, Warm):
            mode.fill()
        if isinstance(mode, Profile) and not self._record(mode):
            self.missing[kind.name] = "this build records no profile"
            return
        self._modes.append(mode)

    def _record(self, mode: Profile) -> bool:
        """Have `mode` record every workload once, without a link in between; whether it did."""
        for workload in dict.fromkeys(start.workload for start in self._starts):
            self._report(f"recording {workload.name}")
            mode.forget()
            mode.mount_union()
            try:
                workloads.run(workload, mode.tree, chroot=self._guest)
            finally:
                mode.unmount()
            if not mode.keep(workload.name):
                return False
        return True

    def run(self, pace: Pace) -> list[Result]:
        """Rounds until time is over, as far as the last one tells; at least one."""
        begun = time.monotonic()
        number, longest = 0, 0.0
        while pace.goes_on(number, time.monotonic() - begun + longest):
            before = time.monotonic()
            self._round(number)
            longest = max(longest, time.monotonic() - before)
            number += 1
        return [Result(start, self._with_floor(start)) for start in self._starts]

    def _round(self, number: int) -> None:
        for link in self._links.values():
            starts = [start for start in self._starts if start.conditions == link.conditions]
            self._report(f"round {number + 1}: {starts[0].link}, {FullPull.name}")
            self._pulled(number, link, starts)
            pairs = [(start, mode) for start in starts for mode in self._modes]
            for start, mode in random.Random(number).sample(pairs, len(pairs)):
                self._report(f"round {number + 1}: {start.name}, {mode.name}")
                self._note(number, start, mode.name, partial(self._mounted, link, start, mode))
            for start in starts:
                self._report(f"round {number + 1}: {start.name}, warm again")
                self._warm_again(number, link, start)

    def _note(self, number: int, start: Start, name: str, sample: Callable[[], Measured]) -> None:
        """One failure is a result too; the others go on."""
        row = self._rows[start.name].setdefault(name, Row(name, {}))
        if row.failure is not None:
            return
        try:
            measured = sample()
        except (ZerofsError, OSError) as error:
            self._fail(start, name, error)
            return
        row.samples[number] = measured.first
        for detail, value in measured.details.items():
            row.details.setdefault(detail, {})[number] = value

    def _fail(self, start: Start, name: str, error: Exception) -> None:
        self._rows[start.name][name] = Row(name, {}, " ".join(str(error).split()))

    def _pulled(self, number: int, link: LinkProcess, starts: Sequence[Start]) -> None:
        self._cool_down()
        link.passed()
        try:
            took = self._pull.pull(link.url)
            passed = link.passed()
            for start in starts:
                self._note(number, start, FullPull.name, partial(self._unpacked, start, took, passed))
        except (ZerofsError, OSError) as error:
            for start in starts:
                self._fail(start, FullPull.name, error)
        finally:
            self._pull.remove()

    def _unpacked(self, start: Start, pulled: float, passed: Passed) -> Measured:
        begin = time.perf_counter()
        ran = workloads.run(start.workload, self._pull.tree, chroot=self._guest)
        return measure(begin - pulled, ran, passed, {})

    def _mounted(self, link: LinkProcess, start: Start, mode: Lazy) -> Measured:
        Lazy.store = link.url
        mode.make_ready(start.workload.name)
        self._cool_down()
        return self._once(link, start, mode)

    def _warm_again(self, number: int, link: LinkProcess, start: Start) -> None:
        """Add to the warm samples of a round what starts take that follow each other, in turns."""
        rows = self._rows[start.name]
        modes = [mode for mode in self._modes if isinstance(mode, Warm) and number in rows[mode.name].samples]
        seconds: dict[str, list[float]] = {mode.name: [] for mode in modes}
        for turn in range(1 if self._quick else _AGAIN):
            for mode in modes if turn % 2 else modes[::-1]:
                mode.make_ready(start.workload.name)
                seconds[mode.name].append(self._once(link, start, mode).first)
        for name, values in seconds.items():
            rows[name].details.setdefault("again", {})[number] = statistics.median(values)

    def _once(self, link: LinkProcess, start: Start, mode: Lazy) -> Measured:
        """Mount and run, in the state that the host is in."""
        link.passed()
        begin = time.perf_counter()
        mode.mount_union()
        try:
            ran = workloads.run(start.workload, mode.tree, chroot=self._guest)
            passed = link.passed()
            counters = self._counters(mode, passed)
        finally:
            mode.unmount()
        if type(mode) is Lazy:
            self._wanted.setdefault(start.workload.name, self._stored(passed.keys))
        return measure(begin, ran, passed, counters)

    def _counters(self, mode: Lazy, passed: Passed) -> Mapping[str, object]:
        if mode.prefetch == "off":
            return {"missed": passed.requests}  # somebody waits for each of them
        counters = prefetch_counters(mode.tree)
        if not counters:
            self.missing["precision and recall"] = "this build's zerofs stats tells nothing of prefetch"
        return counters

    def _cool_down(self) -> None:
        """Nothing of the image in memory, everything of zerofs."""
        host.drop_caches()
        self._rehearsal.mount_union()
        self._rehearsal.unmount()
        host.command("chroot", "--version")
        host.command("tar", "--version")

    def _stored(self, keys: Sequence[str]) -> int:
        """Bytes in the store of these chunks."""
        store = RespStore(parse_store_url(self._redis.url))
        try:
            found = store.get_many([bytes.fromhex(key) for key in keys], time.monotonic() + _PATIENCE)
            return sum(len(payload) for payload in found if payload is not None)
        finally:
            store.close()

    def _with_floor(self, start: Start) -> dict[str, Row]:
        """The rows; where the wanted bytes are known, with how many times the time that they alone take.

        That is these bytes at the line's rate, and two round trips.
        """
        rows = {name: self._rows[start.name][name] for name in NAMES if name in self._rows[start.name]}
        wanted = self._wanted.get(start.workload.name)
        if wanted:
            floor = start.conditions.seconds(wanted, round_trips=2)
            for row in (rows[kind.name] for kind in FETCHING if kind.name in rows):
                row.details["over_floor"] = {number: end / floor for number, end in row.values("end").items()}
        return rows


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
