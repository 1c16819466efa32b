"""The program of a supervised mount's serving process: ``python -m zerofs.cli.serving COMMAND ARGUMENT…``.

Nobody but a supervisor (`zerofs.mount.supervisor`) runs it, with a socket at descriptor 3.  The arguments are those of
the mount, as its user gave them, so that each version of this program reads them in its own way.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from zerofs.errors import ZerofsError
from zerofs.mount.options import MountOptions


def main(arguments: Sequence[str]) -> int:
    """Serve until the mount ends, or a successor serves; returns the exit status."""
    from zerofs.mount.server import DESCRIPTOR

    os.set_inheritable(DESCRIPTOR, False)
    connection = socket.socket(fileno=DESCRIPTOR)
    try:
        return _serve(connection, arguments)
    except ZerofsError as error:
        from zerofs.errors import describe
        from zerofs.mount import messages

        messages.send(connection, "failed", message=describe(error), code=error.exit_code)
        return error.exit_code


def _serve(connection: socket.socket, arguments: Sequence[str]) -> int:
    from zerofs.cli.mounting import absolute, open_log
    from zerofs.mount.service import run
    from zerofs.mount.session import Session

    session = Session(connection)
    options = absolute(_parse(arguments), session.here)
    os.chdir("/")
    open_log(None if options.daemon else options.log, debug=options.debug)  # a daemon's stderr is its log
    run(options, session.ready, session)
    if not session.retired:
        session.ended()
    return 0


def _parse(arguments: Sequence[str]) -> MountOptions:
    command, *words = arguments
    if command == "mount":
        from zerofs.cli.mount import parse_mount

        return parse_mount(words)
    from zerofs.cli.g8ufs import parse_g8ufs

    return parse_g8ufs(words)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
