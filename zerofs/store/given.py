"""Store URLs as users give them: as they stand, or ``@FILE`` with one a line; a variable stands in for the last resort.

So a password need not stand in a command line, which every user of the host can read.  Stateless.
"""

from __future__ import annotations

import os
from pathlib import Path

from zerofs.errors import StoreConfigError, UsageError

STORAGE_VARIABLE = "ZEROFS_STORAGE_URL"


def last_resort(given: str | None) -> str | None:
    """The URL of ``--storage-url``, of its file, or of its variable.

    Raises UsageError where the file holds several, StoreConfigError where it cannot be read.
    """
    if given is None:
        given = os.environ.get(STORAGE_VARIABLE) or None
    if given is None or not given.startswith("@"):
        return given
    urls = urls_in(Path(given[1:]))
    if len(urls) != 1:
        raise UsageError(f"{given[1:]} holds {len(urls)} URLs where --storage-url takes one")
    return urls[0]


def urls_in(path: Path) -> list[str]:
    """The lines of a file, but for comments.  Raises StoreConfigError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StoreConfigError(f"cannot read the store URLs in {path}: {reason}") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
