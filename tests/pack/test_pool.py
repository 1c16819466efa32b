"""The pool: all calls or the first error, bounded, and never held up by a call that hangs."""

from __future__ import annotations

import threading

import pytest

from zerofs.pack import pool as pool_module
from zerofs.pack.pool import QUEUED, Pool


@pytest.mark.parametrize("workers", [1, 5])
def test_all_calls_run(workers: int) -> None:
    done: list[int] = []
    with Pool(workers) as pool:
        for number in range(50):
            pool.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        pool.wait()
        assert sorted(done) == list(range(50))
        pool.submit(lambda: done.append(50))
    assert len(done) == 51


def fail() -> None:
    raise ValueError("first")


def test_the_first_error_is_raised_and_ends_the_rest() -> None:
    done: list[int] = []
    with pytest.raises(ValueError, match="first"), Pool(1) as pool:
        pool.submit(fail)
        while True:  # until the error is seen here
            pool.submit(lambda: done.append(1))
    assert done == []


def test_an_error_of_the_last_call_is_raised() -> None:
    with pytest.raises(ValueError, match="first"), Pool(3) as pool:
        pool.submit(fail)


def test_calls_are_bounded() -> None:
    gate = threading.Event()
    started = threading.Semaphore(0)
    submitted: list[int] = []

    def call() -> None:
        started.release()
        gate.wait(20)

    with Pool(2) as pool:

        def submit() -> None:
            for number in range(20):
                pool.submit(call)
                submitted.append(number)

        thread = threading.Thread(target=submit)
        thread.start()
        for _ in range(2):
            assert started.acquire(timeout=20)
        assert len(submitted) <= 2 + QUEUED
        gate.set()
        thread.join()


def test_leaving_does_not_wait_for_a_call_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "GRACE", 0.01)
    gate = threading.Event()
    running = threading.Semaphore(0)
    over = threading.Event()

    def hang() -> None:
        running.release()
        gate.wait(20)
        over.set()

    with pytest.raises(KeyboardInterrupt), Pool(4) as pool:
        for _ in range(4 + QUEUED):
            pool.submit(hang)
        for _ in range(4):
            assert running.acquire(timeout=20)
        raise KeyboardInterrupt
    assert not over.is_set()
    gate.set()


def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    with Pool(6) as pool:
        pool.submit(lambda: None)
    assert set(threading.enumerate()) <= before
