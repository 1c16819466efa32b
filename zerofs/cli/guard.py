"""What a user sees when a command fails: one line, and the exit status that says what kind it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from zerofs.errors import ZerofsError, describe, reason_of
from zerofs.interruption import INTERRUPTED

BROKEN_PIPE = 141


def guarded(program: str, run: Callable[[], int], *, debug: bool) -> int:
    """The exit status of `run`.  Whatever it raises becomes a line on stderr; with `debug` the traceback, too."""
    try:
        _fill_standard_descriptors()
        status = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(program, "interrupted", INTERRUPTED, debug)
    except BrokenPipeError:
        # What is still buffered has no reader; without this the interpreter complains as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ZerofsError as error:
        return _fail(program, describe(error), error.exit_code, debug)
    except OSError as error:
        return _fail(program, reason_of(error), ZerofsError.exit_code, debug)
    except Exception as error:  # noqa: BLE001 - the last resort of a command: reported, with a status
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(program, f"internal error: {text} (run with --debug)", ZerofsError.exit_code, debug)
    return status


def _fill_standard_descriptors() -> None:
    """Open the null device where the caller left 0, 1 or 2 closed, lest messages go into the cache's file."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)  # None where it was closed
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _fail(program: str, message: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"{program}: {message}", file=sys.stderr)
    return status
