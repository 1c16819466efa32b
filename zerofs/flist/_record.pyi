"""The decoder of Cap'n Proto records; see ``_record.pyx``."""

from collections.abc import Callable

from zerofs.flist.model import Attributes, Entry

def read_directory(
    record: bytes,
    budget: int,
    owner_of: Callable[[bytes], tuple[int, int, int]],
    device_of: Callable[[bytes], tuple[int, int]],
) -> tuple[Attributes, list[Entry], int]: ...
def read_aci(record: bytes, budget: int) -> tuple[bytes, bytes, int, int, int]: ...
