"""Inputs for a harness: random bytes, and valid samples with a few things changed, as hypothesis makes them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

# Where numbers in formats turn over; little-endian in all widths.
_EDGES = [
    number.to_bytes(width, "little")
    for width in (1, 2, 4, 8)
    for number in (
        0,
        1,
        2 ** (8 * width - 1) - 1,
        2 ** (8 * width - 1),
        2 ** (8 * width) - 2,
        2 ** (8 * width) - 1,
    )
]
_PIECES = st.one_of(st.sampled_from(_EDGES), st.binary(min_size=1, max_size=9))


class Input(bytes):
    """Shown by its size: reports quote what failed."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@st.composite
def _mutated(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        way = draw(st.sampled_from(["overwrite", "insert", "remove", "cut", "repeat"]))
        if way == "overwrite":
            piece = draw(_PIECES)
            data[at : at + len(piece)] = piece
        elif way == "insert":
            data[at:at] = draw(_PIECES)
        elif way == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        elif way == "cut":
            del data[at:]
        else:
            piece = data[at : at + draw(st.integers(1, 64))]
            data[at:at] = piece * draw(st.integers(1, 8))
    return bytes(data)


def inputs(samples: Sequence[bytes]) -> st.SearchStrategy[Input]:
    """Mostly mutations of `samples`, and what is nothing at all."""
    return st.one_of(_mutated(samples), _mutated(samples), st.binary(max_size=600)).map(Input)
