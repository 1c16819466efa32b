"""The headers of tar archives from outside, as far as tarfile trusts them too much.

Until 3.11.10 and 3.12.6 tarfile looks for the character set of extended headers with an expression that takes the
square of a run of digits: a header of one megabyte would keep it busy for hours.  Used by both readers of archives.
Stateless.
"""

from __future__ import annotations

import re
import tarfile
from typing import Any

_DIGITS = re.compile(rb"\d{256}")  # more than a name can have


class Member(tarfile.TarInfo):
    """Refuses extended headers with long runs of digits.  Raises tarfile.ReadError."""

    def _proc_pax(self, archive: tarfile.TarFile) -> Any:
        file = archive.fileobj
        archive.fileobj = _Looked(file)  # type: ignore[assignment]
        try:
            return super()._proc_pax(archive)  # type: ignore[misc]
        finally:
            archive.fileobj = file


class _Looked:
    """A file whose bytes are looked at before anybody else does."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        if _DIGITS.search(data):
            raise tarfile.ReadError("an extended header holds a number without end")
        return data
