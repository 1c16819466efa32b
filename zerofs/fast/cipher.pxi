# -- the chunk cipher ----------------------------------------------------------------------

cdef int _cipher_key(const uint8_t[::1] key, uint32_t *out) except -1:
    if key.shape[0] != 16:
        raise ValueError(f"an XXTEA key has 16 bytes, not {key.shape[0]}")
    memcpy(out, &key[0], 16)
    return 0


def xxtea_encrypt(const uint8_t[::1] plain not None, const uint8_t[::1] key not None) -> bytes:
    """Encrypt `plain` (1 byte and up) with a 16-byte `key`.

    The result is `plain` zero-padded to whole 32-bit words, and one more word that holds its length.
    """
    cdef uint32_t k[4]
    cdef size_t size = plain.shape[0]
    cdef size_t words = (size + 3) // 4 + 1
    cdef uint32_t *v
    _cipher_key(key, k)
    if size == 0:
        raise ValueError("nothing to encrypt")
    if size > 0xFFFFFFFF:
        raise ValueError("longer than the length word can hold")
    out = PyBytes_FromStringAndSize(NULL, words * 4)
    v = <uint32_t *>PyBytes_AS_STRING(out)
    with nogil:
        v[words - 2] = 0
        memcpy(v, &plain[0], size)
        v[words - 1] = <uint32_t>size
        zerofs_xxtea_encrypt(v, words, k)
    return out


def xxtea_decrypt(const uint8_t[::1] data not None, const uint8_t[::1] key not None) -> bytes:
    """Decrypt what `xxtea_encrypt` made.  Raises ValueError where the length word does not fit."""
    cdef uint32_t k[4]
    cdef size_t size = data.shape[0]
    cdef size_t words = size // 4
    cdef uint32_t length
    cdef uint32_t *v
    _cipher_key(key, k)
    if size % 4 or words < 2:
        raise ValueError(f"{size} bytes are no XXTEA block")
    buffer = PyBytes_FromStringAndSize(NULL, size)
    v = <uint32_t *>PyBytes_AS_STRING(buffer)
    with nogil:
        memcpy(v, &data[0], size)
        zerofs_xxtea_decrypt(v, words, k)
        length = v[words - 1]
    if length > size - 4 or length + 4 <= size - 4:
        raise ValueError("the length word does not fit: wrong key or damaged bytes")
    return buffer[:length]
