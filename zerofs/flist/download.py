"""Fetches a flist over HTTP into a file.

Role: bounded in bytes and in time, streamed, and complete or not there at all.  A password in the URL
is sent to the host that it names and to no other, and shows up in no message.  Off the way of a read.
"""

from __future__ import annotations

import base64
import http.client
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from zerofs.errors import (
    BackendError,
    FlistError,
    FlistNotFoundError,
    FlistTooLargeError,
    FlistUnreachableError,
    reason_of,
)

STALL_TIMEOUT = 30.0  # seconds without a byte, or without a connection
TOTAL_TIMEOUT = 900.0  # seconds for the whole file
_STEP = 256 << 10  # bytes read at once


def displayed(url: str) -> str:
    """`url` without user and password."""
    parts = _split(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def download(
    url: str,
    target: Path,
    *,
    max_size: int,
    stall_timeout: float = STALL_TIMEOUT,
    total_timeout: float = TOTAL_TIMEOUT,
) -> None:
    """Write what `url` holds to `target`, which appears only when it is whole.

    Raises FlistNotFoundError where the server has no such file, FlistTooLargeError beyond `max_size` bytes,
    FlistUnreachableError where the server or the way to it is in trouble, BackendError where `target` cannot be
    written, FlistError for everything else.
    """
    shown = displayed(url)
    deadline = time.monotonic() + total_timeout
    part = target.with_name(target.name + ".part")
    try:
        with _opener().open(_request(url), timeout=stall_timeout) as response, _created(part) as out:
            _receive(response, out, shown, max_size, deadline)
    except urllib.error.HTTPError as error:
        error.close()
        raise _kind(error.code)(f"cannot fetch {shown}: the server answers {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        kind = (
            FlistUnreachableError if isinstance(reason, Exception) else FlistError
        )  # what it says is no URL of ours
        raise kind(f"cannot fetch {shown}: {reason_of(reason)}") from error
    except ValueError as error:
        raise FlistError(f"cannot fetch {shown}: {error}", hint="check the URL") from error
    part.rename(target)


def _kind(status: int) -> type[FlistError]:
    """What an answer of the server means."""
    if status in (404, 410):
        return FlistNotFoundError
    return FlistUnreachableError if status >= 500 or status in (408, 429) else FlistError


def _receive(
    response: http.client.HTTPResponse, out: IO[bytes], shown: str, max_size: int, deadline: float
) -> None:
    expected = response.length  # None where the server does not say
    if expected is not None and expected > max_size:
        raise FlistTooLargeError(f"{shown} has {expected} bytes, where {max_size} are the most")
    size = 0
    while step := response.read1(_STEP):
        size += len(step)
        if size > max_size:
            raise FlistTooLargeError(f"{shown} has more than {max_size} bytes")
        if time.monotonic() > deadline:
            raise FlistUnreachableError(f"cannot fetch {shown}: it takes too long")
        try:
            out.write(step)
        except OSError as error:
            raise BackendError(f"cannot store {shown}: {error.strerror}") from error
    if expected is not None and size != expected:
        raise FlistUnreachableError(f"cannot fetch {shown}: {size} of {expected} bytes came")


def _created(path: Path) -> IO[bytes]:
    try:
        return path.open("xb", buffering=0)
    except OSError as error:
        raise BackendError(f"cannot write {path}: {error.strerror}") from error


def _opener() -> urllib.request.OpenerDirector:
    """An opener of http and https alone: a redirect leads to no file and no FTP server."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _request(url: str) -> urllib.request.Request:
    request = urllib.request.Request(
        displayed(url), headers={"Accept-Encoding": "identity", "User-Agent": "zerofs"}
    )
    parts = _split(url)
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(credentials).decode())
    return request


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - parsed when asked for
    except ValueError as error:
        raise FlistError("the URL of the flist makes no sense") from error
    if not parts.hostname:
        raise FlistError("the URL of the flist names no host")
    return parts
