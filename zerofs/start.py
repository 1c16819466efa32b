"""Where the commands begin: `zerofs`, `g8ufs` and ``python -m zerofs.bench``.

An interrupt is provided for before the rest is imported, which is most of what a short command does.
"""

from __future__ import annotations

from zerofs.interruption import end_at_once


def zerofs() -> int:
    """The `zerofs` command, and the helper of mount(8); returns the exit status."""
    end_at_once("zerofs")
    from zerofs.cli import main

    return main()


def g8ufs() -> int:
    """The drop-in mount command, also as `0-fs`; returns the exit status."""
    end_at_once("g8ufs")
    from zerofs.cli.g8ufs import main

    return main()


def bench() -> int:
    """The benchmark as a module; returns the exit status."""
    end_at_once("zerofs bench")
    from zerofs.bench import main

    return main()
