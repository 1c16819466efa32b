"""The drop-in command without root: through fusermount and fuse-overlayfs, and in a user namespace.

/dev/fuse and the interpreter may be root's alone on the host that runs this; each test has its own
device, in a mount namespace of its own, where the whole story is played by a shell.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import zerofs
from tests.mount.conftest import Image, write
from tests.support.sandbox import BINARIES, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces and device nodes takes root")

USER = pwd.getpwnam("nobody").pw_uid  # fusermount serves only users who have a name

STORY = r"""
set -e
mount --make-rprivate /
if [ -n "$AS" ]; then
    mount -t tmpfs dev "$BOX/dev"
    mknod -m 666 "$BOX/dev/fuse" c 10 229
    mount --bind "$BOX/dev/fuse" /dev/fuse
    if [ -n "$CLOSED" ]; then
        mkdir "$BOX/closed"
        mount --bind "$CLOSED" "$BOX/closed"
        mount -t tmpfs -o mode=755 open "$CLOSED"
        for place in $OPEN; do
            mkdir -p "$place"
            mount --bind "$BOX/closed/${place#$CLOSED/}" "$place"
        done
    fi
fi
cd "$BOX/home"
$AS mkdir -p mnt
$AS "$G8UFS" --meta "$FLIST" --storage-url "$STORE" --cache cache $OPTIONS mnt > said 2> errors & server=$!
for n in $(seq 300); do
    grep -q 'mount starts' said && break
    kill -0 $server || { cat errors; exit 9; }
    sleep 0.05
done
grep -q 'mount starts' said
$AS sh -c "$CHECKS"
$AS "$ZEROFS" stats --json mnt > stats
test -S zerofs/$server.sock || test -S /run/zerofs/$server.sock
grep " $BOX/home/mnt " /proc/self/mountinfo | grep -o -e ' - [^ ]*'
rc=0
$AS "$G8UFS" --meta "$FLIST" --storage-url "$STORE" --cache cache $AGAIN mnt 2> busy || rc=$?
test $rc = 5
$END
wait $server
test ! -e zerofs/$server.sock
test ! -e /run/zerofs/$server.sock
if grep " $BOX/home" /proc/self/mountinfo; then exit 7; fi
"""

READING = r"""
set -e
test "$(cat mnt/dir/file)" = content
cmp mnt/big "$BOX/source-image/big"
if touch mnt/x 2> /dev/null; then exit 8; fi
"""

WRITING = r"""
set -e
test "$(cat mnt/dir/file)" = content
cmp mnt/big "$BOX/source-image/big"
echo mine > mnt/dir/mine
echo more >> mnt/dir/file
test "$(cat mnt/dir/file)" = "$(printf 'content\nmore')"
rm mnt/gone
test ! -e mnt/gone
mv mnt/dir/mine mnt/moved
test "$(cat mnt/moved)" = mine
"""


def play(
    sandbox: Sandbox,
    image: Image,
    enter: list[str],
    user: int,
    checks: str,
    options: str,
    *,
    end: str = "kill $server",
) -> str:
    """The type of the mount that the user saw.  Another one at the same place is refused meanwhile."""
    sandbox.directory("dev")
    home = sandbox.directory("home")
    os.chown(home, user, user)
    closed, places = interpreter()
    environment = {
        **os.environ,
        "CLOSED": closed,
        "OPEN": " ".join(places),
        "AS": f"setpriv --reuid={user} --regid={user} --clear-groups" if user else "",
        "BOX": str(sandbox.path),
        "G8UFS": str(BINARIES / "g8ufs"),
        "ZEROFS": str(BINARIES / "zerofs"),
        "XDG_RUNTIME_DIR": str(home),
        "FLIST": str(image.flist),
        "STORE": f"dir://{image.store}",
        "OPTIONS": options,
        "AGAIN": "--ro --backend second" if "--ro" in options else "--backend second",
        "CHECKS": checks,
        "HOME": str(home),
    }
    done = subprocess.run(
        ["unshare", *enter, "--mount", "sh", "-c", STORY.replace("$END", end)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    errors = home / "errors"
    assert done.returncode == 0, done.stdout + done.stderr + (errors.read_text() if errors.exists() else "")
    said = json.loads((home / "stats").read_text())
    assert said["mount"]["target"] == str(home / "mnt") and said["fetch"]["fetched"] > 0
    assert "busy" in (home / "busy").read_text()
    return done.stdout.split()[-1]


def interpreter() -> tuple[str, list[str]]:
    """The directory below ``/`` that only root may enter, if the interpreter lies in one, and what it needs there."""
    places = {sys.prefix, sys.base_prefix, str(Path(zerofs.__file__).parent.parent)}
    closed = {f"/{Path(place).parts[1]}" for place in places}
    closed = {place for place in closed if not Path(place).stat().st_mode & 0o001}
    if not closed:
        return "", []
    (top,) = closed
    return top, [place for place in places if place.startswith(f"{top}/")]


def pack_for(pack: Callable[..., Image], user: int) -> Image:
    def fill(root: Path) -> None:
        write(root / "dir" / "file", "content\n")
        write(root / "gone", "gone")
        write(root / "big", os.urandom(1_200_000))
        for path in (root, *root.rglob("*")):
            os.chown(path, user, user)

    return pack("image", fill)


def test_read_only(sandbox: Sandbox, pack: Callable[..., Image]) -> None:
    seen = play(sandbox, pack_for(pack, USER), [], USER, READING, "--ro --backend backend")
    assert seen == "fuse.g8ufs"


@pytest.mark.parametrize(
    ("backend", "end"),
    [("--backend backend", "kill $server"), ("--backend other --reset", '$AS "$ZEROFS" umount mnt')],
)
def test_read_write(sandbox: Sandbox, pack: Callable[..., Image], backend: str, end: str) -> None:
    if shutil.which("fuse-overlayfs") is None:
        pytest.skip("no package fuse-overlayfs")
    seen = play(sandbox, pack_for(pack, USER), [], USER, WRITING, backend, end=end)
    assert seen == "fuse.fuse-overlayfs"


@pytest.mark.parametrize("options", ["", "--backend backend"])
def test_in_a_user_namespace(sandbox: Sandbox, pack: Callable[..., Image], options: str) -> None:
    enter = ["--user", "--map-root-user"]
    assert play(sandbox, pack_for(pack, 0), enter, 0, WRITING, options) == "overlay"
