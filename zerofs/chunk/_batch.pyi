from typing import Final, TypeVar

from typing_extensions import Buffer

_Bytes = TypeVar("_Bytes", bound=Buffer)

LANES: Final[int]  # chunks that a call of the cipher takes
PATHS: Final[tuple[str, ...]]  # that this processor has, the widest last

def xxtea_encrypt_lanes(
    plains: list[_Bytes], keys: list[bytes], *, path: str | None = None
) -> list[bytes]: ...
def xxtea_decrypt_lanes(
    blocks: list[_Bytes], keys: list[bytes], *, path: str | None = None
) -> list[memoryview | None]: ...
def blake2b_lanes(messages: list[_Bytes], digest_size: int, *, path: str | None = None) -> list[bytes]: ...
def decode_lanes(
    payloads: list[_Bytes],
    keys: list[bytes],
    limits: list[int],
    counts: list[int],
    digest_size: int = 0,
    *,
    path: str | None = None,
) -> list[bytes | None]: ...
