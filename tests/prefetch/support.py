"""A tree of numbers, and the two sides that a plan has."""

from __future__ import annotations

from collections.abc import Sequence

CHUNK = 512 << 10


class NumberTree:
    """Files by row, each a list of chunk numbers; every chunk has `CHUNK` bytes unless `sizes` says otherwise."""

    def __init__(self, files: dict[int, list[int]], sizes: dict[int, int] | None = None) -> None:
        self.files = files
        self.sizes = sizes or {}
        self.chunk_count = max((number for file in files.values() for number in file), default=-1) + 1

    def refs(self, row: int, first: int = 0, most: int = 0xFFFFFFFF) -> list[int]:
        return self.files[row][first : first + most]

    def file_length(self, row: int) -> int:
        return len(self.files[row])

    def chunk_size(self, number: int) -> int:
        return self.sizes.get(number, CHUNK)


class NumberCache:
    """Which chunks are there."""

    def __init__(self, numbers: Sequence[int] = ()) -> None:
        self.numbers = set(numbers)
        self.looks = 0

    def has(self, numbers: Sequence[int]) -> list[bool]:
        self.looks += len(numbers)
        return [number in self.numbers for number in numbers]
