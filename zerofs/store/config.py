"""The configuration file's store, for mounts that name none.

The first of these files that exists counts: ``$ZEROFS_CONFIG``, ``$XDG_CONFIG_HOME/zerofs/config.toml``
(``~/.config`` where that is unset), ``/etc/zerofs/config.toml``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from zerofs.errors import StoreConfigError
from zerofs.store.url import StoreUrl, parse_store_url

HUB = "ardb://hub.gig.tech:16379"
SYSTEM_FILE = Path("/etc/zerofs/config.toml")


def default_storage() -> StoreUrl:
    """``[globals] storage`` of the configuration file, else the public hub.  Raises StoreConfigError."""
    for path in _candidates():
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as fault:
            raise StoreConfigError(f"{path}: {fault.strerror}") from fault
        return _storage(path, text)
    return parse_store_url(HUB)


def _candidates() -> Iterator[Path]:
    named = os.environ.get("ZEROFS_CONFIG")
    if named:
        if not Path(named).exists():
            raise StoreConfigError(f"{named}: no such file", hint="ZEROFS_CONFIG names a configuration file")
        yield Path(named)
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = os.environ.get("HOME", "")
    if base.startswith("/"):
        yield Path(base) / "zerofs" / "config.toml"
    elif home.startswith("/"):
        yield Path(home) / ".config" / "zerofs" / "config.toml"
    yield SYSTEM_FILE


def _storage(path: Path, text: bytes) -> StoreUrl:
    import tomllib

    try:
        document = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise StoreConfigError(f"{path}: not TOML: {fault}", hint="see docs/stores.md") from fault
    section = document.get("globals", {})
    storage = section.get("storage", HUB) if isinstance(section, dict) else None
    if not isinstance(storage, str):
        raise StoreConfigError(f'{path}: [globals] storage is a text, as in storage = "{HUB}"')
    try:
        return parse_store_url(storage)
    except StoreConfigError as fault:
        raise StoreConfigError(f"{path}: [globals] storage: {fault}") from fault
