"""Reporting what was skipped, and failing a run that skipped what it must run.

``--skip-report FILE`` writes every skipped test and its reason as JSON.  With ``--strict-skips`` a skip fails
the run unless ``tests/allowed-skips.txt`` has a line for its reason.
"""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import NamedTuple

import pytest

ALLOWED = Path(__file__).parents[1] / "allowed-skips.txt"


class Skip(NamedTuple):
    """A test that did not run."""

    test: str
    reason: str
    allowed: bool


def allowed_reasons() -> list[str]:
    """Shell patterns of reasons, one a line; empty lines and those that begin with # aside."""
    lines = (line.strip() for line in ALLOWED.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class SkipReport:
    """The plugin: collects skips while the suite runs, judges them at its end."""

    def __init__(self, report: Path | None, *, strict: bool) -> None:
        self._report = report
        self._strict = strict
        self._patterns = allowed_reasons()
        self.skips: list[Skip] = []

    def _note(self, test: str, longrepr: object) -> None:
        text = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
        reason = text.removeprefix("Skipped: ")
        allowed = any(fnmatch.fnmatchcase(reason, pattern) for pattern in self._patterns)
        self.skips.append(Skip(test, reason, allowed))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report.nodeid, report.longrepr)

    @property
    def forbidden(self) -> list[Skip]:
        """The skips for which no line of the list gives leave."""
        return [skip for skip in self.skips if not skip.allowed]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._report is not None:
            self._report.parent.mkdir(parents=True, exist_ok=True)
            self._report.write_text(json.dumps([skip._asdict() for skip in self.skips], indent=1) + "\n")
        if self._strict and self.forbidden and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._strict and self.forbidden:
            terminalreporter.section("skipped, but must run", sep="=", red=True)
            for skip in self.forbidden:
                terminalreporter.line(f"{skip.test}: {skip.reason}")
