"""Fixtures for every folder: servers, golden data, a sandbox with mounts, a real image.

A run works in one directory of its own (`tests.support.session`), which also holds pytest's ``tmp_path``.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import session
from tests.support.debianroot import DebianRoot
from tests.support.debianroot import debian_root as build_debian_root
from tests.support.golden import NAMES, Golden, golden_directory
from tests.support.mounts import remove_tree, unmount_below
from tests.support.redisserver import RedisServer
from tests.support.sandbox import Sandbox
from tests.support.skips import SkipReport

# How long an example takes says something of what else this machine does, and nothing of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_DIRECTORY = pytest.StashKey[Path]()
_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zerofs")
    group.addoption(
        "--skip-report", type=Path, metavar="FILE", help="write what was skipped, and why, as JSON"
    )
    group.addoption(
        "--fault-product", action="store_true", help="every pair of faults on every engine (long)"
    )
    group.addoption("--strict-skips", action="store_true", help="fail if a test that must run was skipped")


@pytest.hookimpl(tryfirst=True)  # before pytest settles on its own directory
def pytest_configure(config: pytest.Config) -> None:
    report: Path | None = config.getoption("--skip-report")
    config.pluginmanager.register(SkipReport(report, strict=bool(config.getoption("--strict-skips"))))
    if config.option.basetemp is None and not config.option.collectonly:
        directory = session.open_session()
        config.stash[_DIRECTORY] = directory
        config.option.basetemp = str(directory / "tmp")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    directory = session.config.stash.get(_DIRECTORY, None)
    if directory is not None:
        _close(directory, keep=exitstatus != 0)


_close = session.close_session


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _nothing_left_mounted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Unmount what a test left in its ``tmp_path``, and fail it for that."""
    directory: Path | None = None
    if "tmp_path" in request.fixturenames:
        directory = request.getfixturevalue("tmp_path")
    yield
    if directory is not None and (left := unmount_below(directory)):
        pytest.fail(f"left mounted: {', '.join(str(mount.target) for mount in left)}")


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """A signal that a test leaves ignored or blocked is so in the processes of all later tests."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    after = [signal.getsignal(number) for number in numbers], signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if after != before:
        for number, handler in zip(numbers, before[0], strict=True):
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before[1])
        pytest.fail(f"left signals otherwise than they were: {before} became {after}")


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A directory on a disk that every user may enter, and commands run in it; see `Sandbox`.

    The test fails for a mount or a process that it leaves, and for warnings in the log of a mount.
    """
    name = re.sub(r"\W+", "-", request.node.name)[:40].strip("-")
    path = tmp_path_factory.getbasetemp().parent / f"{name}-{os.urandom(3).hex()}"
    path.mkdir()
    box = Sandbox(path)
    yield box
    problems = box.close()
    if not problems and not request.node.stash.get(_FAILED, False):
        remove_tree(path)
    if problems:
        pytest.fail("\n".join(problems))


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts real servers: ``redis_server(password=None, unixsocket=False, args=())`` → `RedisServer`."""
    with ExitStack() as stack:
        count = iter(range(1000))

        def start(**options: object) -> RedisServer:
            server = RedisServer(tmp_path / f"redis-{next(count)}", **options)  # type: ignore[arg-type]
            return stack.enter_context(server)

        yield start


@pytest.fixture(scope="session")
def golden() -> Path:
    """The directory of the golden flists."""
    return golden_directory()


@pytest.fixture(params=NAMES)
def golden_flist(request: pytest.FixtureRequest, golden: Path) -> Golden:
    """Each of the golden flists in turn."""
    return Golden(golden, request.param)


@pytest.fixture(scope="session")
def debian_root() -> DebianRoot:
    """A minimal Debian root with python3, as a tar and unpacked."""
    return build_debian_root()
