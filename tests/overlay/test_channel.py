"""Ending a channel whose threads do not come back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from zerofs.errors import MountError
from zerofs.mount import channel
from zerofs.mount.channel import Channel


@pytest.fixture
def idle() -> Iterator[Channel]:
    """A channel that nobody serves."""
    before = signal.getsignal(signal.SIGUSR1)
    yield Channel.inherited(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), Path("/nowhere"), None)
    signal.signal(signal.SIGUSR1, before)


def test_a_thread_that_cannot_be_interrupted_is_left_behind(
    idle: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_CUT_TIMEOUT", 0.1)
    with pytest.raises(MountError, match="left behind"):
        idle.cut(ended=lambda: False)
    looks = iter([False, False, True])
    monkeypatch.setattr(channel, "_CUT_TIMEOUT", 60.0)
    idle.cut(ended=lambda: next(looks))
    idle.close()
