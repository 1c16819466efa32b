"""What llfuse says of the end of a session: its complaints about ordinary ends stay out of the log, others do not."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from zerofs.mount.llfuse_engine import Ordinary


def said(error: int, message: str, *arguments: object) -> bool:
    """Whether llfuse's log has a message that was written while a system call's error was handled."""
    record = logging.LogRecord("llfuse", logging.ERROR, "", 0, message, arguments, None)
    try:
        raise OSError(error, "fuse_session_receive_buf failed")
    except OSError:
        return bool(Ordinary().filter(record))


@pytest.mark.parametrize(("error", "expected"), [(errno.ECONNABORTED, False), (errno.EIO, True)])
def test_a_worker_that_met_the_end_of_the_connection(error: int, expected: bool) -> None:
    """The kernel tells it to a worker that it was just about to give a request."""
    assert said(error, "FUSE worker thread %d terminated with exception, aborting processing", 1) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [(errno.ENOENT, False), (errno.ENODEV, False), (errno.ECONNABORTED, False), (errno.EINVAL, True)],
)
def test_an_answer_that_nobody_waits_for(error: int, expected: bool) -> None:
    message = "fuse_read(): fuse_reply_* failed with %s"
    assert said(errno.EIO, message, os.strerror(error)) == expected


def test_other_messages_stay() -> None:
    assert said(errno.ECONNABORTED, "pthread_join failed with: %s", "reason")
