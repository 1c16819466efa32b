"""What the tests of stores share: deadlines, and a guard that ends a test whose wait does not end."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.faultproxy import FaultProxy
from zerofs.store import wire

T = TypeVar("T")


class Clock:
    """Stands in for the module `time`; a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def within(seconds: float = 10.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def must_end(work: Callable[[], T], guard: float = 30.0) -> T:
    """Run `work` in a thread and fail, instead of hanging, should it not end."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  it is raised again below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(guard)
    assert not thread.is_alive(), "a wait did not end"
    if errors:
        raise errors[0]
    return results[0]


@pytest.fixture
def proxied() -> Iterator[Callable[[tuple[str, int]], FaultProxy]]:
    """Puts a `FaultProxy` before a server."""
    with ExitStack() as stack:
        yield lambda upstream: stack.enter_context(FaultProxy(upstream))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one directory."""
    directory = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return directory


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    monkeypatch.setattr(wire, "_tls_context", lambda: context)


@pytest.fixture
def directories(tmp_path: Path) -> dict[str, str]:
    """URLs of three empty directory stores: a, b, c."""
    for name in "abc":
        (tmp_path / name).mkdir()
    return {name: f"dir://{tmp_path}/{name}" for name in "abc"}
