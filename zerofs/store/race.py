"""Hedging: a replica that is late gets a second one beside it, and the first chunk that verifies wins.

Late is what takes longer than nearly all that the same destination has answered lately.  Second requests are
`AT_FIRST` and a few per cent of all, never more: a budget is earned with each chunk that is asked for.  Who loses is
not cut off: a helper reads the rest of its answers and drops them, so that its connection can be used again.

Until somebody is late, the thread that runs the race waits itself, if the store lets it go in time; from then on
helper threads wait.  The judging is done by the thread that runs the race.  `Hedges` is shared by all
races of a router: `_lock` guards its counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zerofs.errors import StoreTimeoutError
from zerofs.store.asking import Answers, Asking
from zerofs.store.destination import Destination
from zerofs.store.helpers import Helpers, Mailbox
from zerofs.store.want import Want

SHARE = 0.03  # second requests to first ones
MOST_SAVED = 64  # second requests that a quiet time saves up
AT_FIRST = 16  # that there may be before any is earned: the first replica may be silent when a mount begins
PATIENCE = 1.2  # times what is late: as late as that is no accident
SOONEST = 0.005  # seconds; what is later than that may be worth a second request
GRACE = 1.0  # seconds that a store may take to notice that its time is over

Offer = Callable[[Destination, Answers], None]


class HedgeStats(NamedTuple):
    """Counts of chunks since the start."""

    asked: int = 0  # where a second request was possible
    hedged: int = 0  # asked for twice
    won: int = 0  # served by the second one


class Hedges:
    """How many second requests there may be, and were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._saved = float(AT_FIRST)
        self._stats = HedgeStats()

    def earn(self, chunks: int) -> bool:
        """Count first requests; whether a second one may be sent."""
        with self._lock:
            self._stats = self._stats._replace(asked=self._stats.asked + chunks)
            self._saved = min(self._saved + chunks * SHARE, MOST_SAVED)
            return self._saved >= 1

    def spend(self, chunks: int) -> int:
        """Take what is there for up to so many second requests."""
        with self._lock:
            taken = min(chunks, int(self._saved))
            self._saved -= taken
            self._stats = self._stats._replace(hedged=self._stats.hedged + taken)
            return taken

    def win(self, chunks: int) -> None:
        with self._lock:
            self._stats = self._stats._replace(won=self._stats.won + chunks)

    def stats(self) -> HedgeStats:
        with self._lock:
            return self._stats


class _Runner:
    """An asking whose steps a helper takes."""

    def __init__(self, asking: Asking, mailbox: Mailbox[_Arrival]) -> None:
        self.asking = asking
        self.owed: Sequence[Want] = asking.owed
        self._mailbox = mailbox
        self._lock = threading.Lock()
        self._dropped = False
        self._stepping = False

    def go_on(self, helpers: Helpers) -> bool:
        """Have the next step taken; False where nobody is there to do so."""
        self._stepping = True
        if helpers.run(self._step):
            return True  # perhaps it is over by now
        self._stepping = False
        return False

    def drop(self, helpers: Helpers) -> None:
        """Nobody wants the rest: it is read and forgotten."""
        with self._lock:
            self._dropped = True
            stepping = self._stepping
        if not stepping and not self.go_on(helpers):
            self.asking.close()

    def _step(self) -> None:
        while True:
            arrival: Answers | BaseException | None
            try:
                arrival = self.asking.step()
                if arrival == []:
                    continue  # it was late before
            except BaseException as fault:  # noqa: BLE001  raised again by whoever waits
                arrival = fault
            with self._lock:
                if not self._dropped:
                    self._stepping = False
                    self._mailbox.put(_Arrival(self, arrival))
                    return
            if not isinstance(arrival, list):
                return


class _Arrival(NamedTuple):
    runner: _Runner
    answers: Answers | BaseException | None


class Race:
    """Has `offer` judge what comes, from whoever is first."""

    def __init__(self, helpers: Helpers, hedges: Hedges, offer: Offer) -> None:
        self._helpers = helpers
        self._hedges = hedges
        self._offer = offer
        self._mailbox: Mailbox[_Arrival] = helpers.mailbox()
        self._runners: list[_Runner] = []  # that still owe something

    def run(self, first: Asking, late: float) -> bool:
        """Until each chunk of `first` is served or nobody who was asked owes it; False where no helper is free.

        `late`: seconds without an answer from `first` that few take; then others are asked, too.
        """
        late = max(late * PATIENCE, SOONEST)
        is_late = False
        if first.destination.is_patient():
            if not self._is_late_at_last(first, late):
                return True
            is_late = True
        runner = self._start(first)
        if runner is None:
            return False
        hedge_at = time.monotonic() + (0.0 if is_late else late)
        try:
            while any(not want.served for runner in self._runners for want in runner.owed):
                now = time.monotonic()
                arrival = self._mailbox.take(min(hedge_at, first.limit + GRACE) - now)
                if arrival is None and time.monotonic() >= first.limit + GRACE:
                    self._give_up()
                elif arrival is None:
                    self._hedge(runner)
                    hedge_at = float("inf")
                else:
                    self._take(arrival, won=arrival.runner is not runner)
                    if arrival.runner is runner:
                        hedge_at = time.monotonic() + late
        finally:
            for each in self._runners:
                each.drop(self._helpers)
        return True

    def _is_late_at_last(self, first: Asking, late: float) -> bool:
        """Take its steps here, as long as none takes too long: a helper costs more than most answers."""
        first.patience = late
        while (answers := first.step()) is not None:
            if not answers:
                first.patience = None  # for what is asked anew
                return True
            self._offer(first.destination, answers)
        return False

    def _start(self, asking: Asking) -> _Runner | None:
        runner = _Runner(asking, self._mailbox)
        if not runner.go_on(self._helpers):
            return None
        self._runners.append(runner)
        return runner

    def _hedge(self, late: _Runner) -> None:
        """Ask others for what is late, as far as the budget goes."""
        rivals: dict[Destination, list[Want]] = {}
        for want in late.owed:
            rival = want.rival()
            if rival is not None and not want.served:
                rivals.setdefault(rival, []).append(want)
        for rival, wants in rivals.items():
            wants = wants[: self._hedges.spend(len(wants))]
            if wants and self._start(Asking(rival, wants, late.asking.limit)) is not None:
                for want in wants:
                    del want.waiting[1]  # it need not be asked again

    def _take(self, arrival: _Arrival, *, won: bool) -> None:
        runner, answers = arrival
        if isinstance(answers, BaseException):
            self._runners.remove(runner)
            raise answers
        if answers is None:
            self._runners.remove(runner)
            return
        open_before = [want for want, _ in answers if not want.served]
        self._offer(runner.asking.destination, answers)
        if won:
            self._hedges.win(sum(want.served for want in open_before))
        runner.owed = runner.asking.owed
        if not runner.go_on(self._helpers):
            self._runners.remove(runner)
            self._finish(runner)

    def _finish(self, runner: _Runner) -> None:
        """Take the remaining steps here: there is no helper left."""
        while (answers := runner.asking.step()) is not None:
            if answers:
                self._offer(runner.asking.destination, answers)

    def _give_up(self) -> None:
        """A store that does not even notice that its time is over."""
        for runner in self._runners:
            for want in runner.owed:
                destination = runner.asking.destination
                want.faults[destination] = StoreTimeoutError(f"{destination.display}: no answer in time")
            runner.drop(self._helpers)
        self._runners.clear()
