"""How long work tells how far it is.  What is shown, and whether, is the command line's affair."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of files and bytes, from any thread."""

    def expect(self, *, files: int = 0, size: int = 0) -> None:
        """So much work is ahead in all: `files`, and `size` bytes; may grow, 0 is unknown."""
        ...

    def advance(self, *, files: int = 0, size: int = 0) -> None:
        """So much more of it is done."""
        ...


class Silent:
    """Shows nothing."""

    def expect(self, *, files: int = 0, size: int = 0) -> None:
        pass

    def advance(self, *, files: int = 0, size: int = 0) -> None:
        pass
