from collections.abc import Callable, Iterable, Sequence
from typing import Any

from typing_extensions import Buffer

from zerofs.errors import ZerofsError

def xxtea_encrypt(plain: Buffer, key: Buffer) -> bytes: ...
def xxtea_decrypt(data: Buffer, key: Buffer) -> bytes: ...

class IndexMap:
    node_count: int
    child_count: int
    names_size: int
    ref_count: int
    chunk_count: int
    def __init__(self, buffer: Buffer, sections: Sequence[tuple[int, int]]) -> None: ...
    def __len__(self) -> int: ...
    def node(self, row: int) -> tuple[int, int, int, int, int, int, int, int, int, int, int, int]: ...
    def lookup(self, row: int, name: bytes) -> int | None: ...
    def children(self, row: int) -> list[tuple[bytes, int]]: ...
    def target(self, row: int) -> bytes: ...
    def refs(self, row: int) -> list[int]: ...
    def chunk(self, number: int) -> tuple[bytes, bytes, int]: ...

class Operations:
    def __init__(
        self,
        index: IndexMap,
        *,
        cache: Any,
        cache_name: Callable[[bytes], bytes],
        fetch: Callable[[IndexMap, int], bytes | memoryview],
        report: Callable[[ZerofsError], None],
        binding: Any,
        total_size: int = 0,
    ) -> None: ...
    def swap(
        self,
        index: IndexMap,
        total_size: int = 0,
        replaced: Iterable[tuple[tuple[int, bytes], int]] = (),
    ) -> None: ...
    def lingering_names(self) -> list[tuple[int, bytes]]: ...

class Engine:
    resends: bool
    def __init__(
        self,
        channel: int,
        index: IndexMap,
        *,
        cache: Any,
        cache_name: Callable[[bytes], bytes],
        request: Callable[[IndexMap, int, Callable[[int, bytes | None], None]], None],
        report: Callable[[ZerofsError], None],
        kill_pending: Callable[[int], bool],
        total_size: int = 0,
    ) -> None: ...
    def add_worker(self) -> int: ...
    def serve(self, number: int) -> int: ...
    def swap(
        self,
        index: IndexMap,
        total_size: int = 0,
        replaced: Iterable[tuple[tuple[int, bytes], int]] = (),
    ) -> None: ...
    def renew(self) -> bool: ...
    def lingering_names(self) -> list[tuple[int, bytes]]: ...
    def give_up_killed(self) -> None: ...
    def fail_parked(self) -> None: ...
