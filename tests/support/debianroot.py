"""The real image of the benchmark, as a test wants it: there, or a reason to skip."""

from __future__ import annotations

import pytest

from zerofs.bench.debian import DebianRoot, ImageUnavailableError, image_cache
from zerofs.bench.debian import debian_root as build

__all__ = ["DebianRoot", "debian_root"]


def debian_root() -> DebianRoot:
    """Built on the first call, kept where the benchmark keeps it."""
    try:
        return build(image_cache())
    except ImageUnavailableError as error:
        pytest.skip(f"no Debian image: {error}")
