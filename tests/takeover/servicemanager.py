"""A service manager in little, as a program: ``servicemanager.py PLACE KILLMODE COMMAND…``.

It does what systemd does for ``Type=notify``, ``NotifyAccess=main``, ``Restart=on-abnormal`` and a store of
descriptors: takes notifications at a datagram socket, keeps descriptors by name (none twice), gives them to the process
that it starts after the main one was killed, closes what comes with a barrier, and adopts the processes that are left.
What it knows is always in ``PLACE/state``.  SIGTERM stops the service.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER, SYS_KCMP = 36, {"x86_64": 312, "aarch64": 272}[os.uname().machine]
HIGH = 500  # where its own descriptors lie, out of the way of those that are given
libc = ctypes.CDLL(None, use_errno=True)


def is_same(one: int, other: int) -> bool:
    return libc.syscall(SYS_KCMP, os.getpid(), os.getpid(), 0, one, other) == 0  # type: ignore[no-any-return]


class Manager:
    def __init__(self, place: Path, kill_mode: str, command: list[str]) -> None:
        self.place, self.kill_mode, self.command = place, kill_mode, command
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = f"@{place}/notify"
        self.socket.bind("\0" + self.address[1:])
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self.stored: dict[str, int] = {}
        self.main = self.starts = self.ready = self.refused = self.aliens = 0
        self.told: list[str] = []
        self.status: int | None = None
        self.stopping = False

    def start(self) -> None:
        self.starts += 1
        self.main = os.fork()
        if self.main == 0:
            os.environ["NOTIFY_SOCKET"] = self.address
            if self.stored:
                os.environ |= {
                    "LISTEN_PID": str(os.getpid()),
                    "LISTEN_FDS": str(len(self.stored)),
                    "LISTEN_FDNAMES": ":".join(self.stored),
                }
            for place, descriptor in enumerate(self.stored.values(), 3):
                os.dup2(descriptor, place)
            os.execv(self.command[0], self.command)
        self.save()

    def save(self) -> None:
        draft = self.place / "draft"
        known = ("main", "starts", "ready", "refused", "aliens", "told", "status")
        document = {name: getattr(self, name) for name in known}
        draft.write_text(json.dumps({**document, "stored": list(self.stored)}))
        draft.rename(self.place / "state")

    def run(self) -> int:
        self.start()
        while self.status is None:
            readable, _, _ = select.select([self.socket, self.wake], [], [])
            if self.socket in readable:  # first: what a process says counts although it has ended since
                self.hear()
                continue
            if signal.SIGTERM in os.read(self.wake, 256):
                self.stopping = True
                os.kill(self.main, signal.SIGTERM)
            self.reap()
        self.save()
        return 0

    def hear(self) -> None:
        data, control, _, _ = self.socket.recvmsg(4096, 4096)
        descriptors, sender = array.array("i"), 0
        for _, kind, content in control:
            if kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) // 4 * 4])
            elif kind == socket.SCM_CREDENTIALS:
                sender = struct.unpack("3i", content)[0]
        lines = data.decode().split("\n")
        if sender == self.main:
            self.heard(dict(line.split("=", 1) for line in lines), list(descriptors))
        elif lines != ["BARRIER=1"]:
            self.refused += 1
        for descriptor in descriptors:
            os.close(descriptor)
        self.save()

    def heard(self, said: dict[str, str], descriptors: list[int]) -> None:
        if "FDSTORE" in said:
            for descriptor in descriptors:
                if not any(is_same(descriptor, kept) for kept in self.stored.values()):
                    kept = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)
                    self.stored[said["FDNAME"]] = kept
        elif "FDSTOREREMOVE" in said:
            if said["FDNAME"] in self.stored:
                os.close(self.stored.pop(said["FDNAME"]))
        elif "BARRIER" not in said:
            self.told += [f"{name}={value}" for name, value in said.items()]
            self.ready += "READY" in said
            if "MAINPID" in said:
                self.main = int(said["MAINPID"])
                # systemd does not wait for the end of one that is not its child, and kills it at once
                self.aliens += self.main not in self.children()

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.main:
                    self.main_ended(os.waitstatus_to_exitcode(ended[1]))

    def children(self) -> list[int]:
        return list(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))

    def main_ended(self, code: int) -> None:
        if code >= 0 or self.stopping:
            self.status = code
            return
        for child in self.children():
            if self.kill_mode != "process":
                os.kill(child, signal.SIGTERM if self.kill_mode == "control-group" else signal.SIGKILL)
        self.start()


if __name__ == "__main__":
    raise SystemExit(Manager(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]).run())
