"""mount(8), its helper mount.fuse, and lines of fstab.

The helper is run without PATH, so the command has to lie where a shell looks by itself: each test has a mount
namespace of its own, where a link in an otherwise empty /usr/local/sbin leads to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.sandbox import BINARIES, Sandbox
from zerofs.cli import helper
from zerofs.errors import UsageError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

PROLOGUE = """
set -e
mount --make-rprivate /
mount -t tmpfs bin /usr/local/sbin
ln -s "$BINARIES/zerofs" /usr/local/sbin/zerofs
finish() { umount "$MNT"; while pgrep -f -- "$MNT" | grep -vqx $$; do sleep 0.02; done; }
"""

AS_HELPER = """
mkdir /usr/local/sbin/upper /usr/local/sbin/work
mount -t overlay -o lowerdir=/usr/sbin,upperdir=/usr/local/sbin/upper,workdir=/usr/local/sbin/work sbin /usr/sbin
ln -s "$BINARIES/zerofs" /usr/sbin/mount.fuse.zerofs
"""


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("an image", lambda root: write(root / "file", "content\n"))


@pytest.fixture
def play(sandbox: Sandbox, image: Image) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``play(script, status=0)``: runs a shell script that mounts, in a namespace of its own."""
    assert shutil.which("mount.fuse"), "the package fuse3 has it"
    target = sandbox.directory("a mount point")

    def run(script: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "BINARIES": str(BINARIES),
            "BOX": str(sandbox.path),
            "FLIST": str(image.flist),
            "MNT": str(target),
            "OPTIONS": f"storage-url=dir://{image.store},cache={sandbox.path}/cache,log={sandbox.path}/log",
        }
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", PROLOGUE + script],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def escaped(path: Path) -> str:
    return str(path).replace(" ", r"\040")


def test_read_only(play: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = play("""
        mount -t fuse.zerofs -o "ro,$OPTIONS" "$FLIST" "$MNT"
        cat "$MNT/file"
        findmnt -n -o FSTYPE,OPTIONS "$MNT"
        finish
    """)
    content, kind = done.stdout.splitlines()
    assert content == "content" and kind.startswith("fuse.zerofs ro,")
    assert done.stderr == ""


def test_read_write(play: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = play("""
        mount -t fuse.zerofs -o "$OPTIONS,backend=$BOX/backend" "$FLIST" "$MNT"
        echo more >> "$MNT/file"
        cat "$MNT/file"
        finish
    """)
    assert (done.stdout, done.stderr) == ("content\nmore\n", "")


def test_a_line_of_fstab(
    play: Callable[..., subprocess.CompletedProcess[str]], sandbox: Sandbox, image: Image
) -> None:
    places = " ".join(map(escaped, (image.flist, sandbox.path / "a mount point")))
    options = f"storage-url=dir://{image.store},cache={sandbox.path}/cache,log={sandbox.path}/log"
    line = f"{places} fuse.zerofs ro,noauto,nofail,_netdev,noexec,x-systemd.automount,{options} 0 0\n"
    write(sandbox.path / "fstab", line)
    done = play("""
        mount -T "$BOX/fstab" "$MNT"
        cat "$MNT/file"
        findmnt -n -o OPTIONS "$MNT"
        finish
    """)
    content, options = done.stdout.splitlines()
    assert content == "content" and "noexec" in options.split(",")


def test_a_value_with_commas_stands_in_quotes(
    play: Callable[..., subprocess.CompletedProcess[str]], sandbox: Sandbox, pack: Callable[..., Image]
) -> None:
    low = pack("low", lambda root: write(root / "low", "from below\n"))
    low.flist.rename(sandbox.path / "a,b.flist")
    done = play("""
        mount -t fuse.zerofs -o "ro,$OPTIONS,meta=\\"$BOX/a,b.flist\\"" "$FLIST" "$MNT"
        cat "$MNT/low" "$MNT/file"
        finish
    """)
    assert done.stdout == "from below\ncontent\n"


def test_set_user_id_programs_work_unless_told_otherwise(
    play: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """By our own helper as by mount.fuse, which adds the words that mount(8) leaves out."""
    for prepare in ("", AS_HELPER):
        done = play(f"""{prepare}
            mount -t fuse.zerofs -o "ro,$OPTIONS" "$FLIST" "$MNT"
            findmnt -n -o OPTIONS "$MNT"
            finish
            mount -t fuse.zerofs -o "ro,nosuid,$OPTIONS" "$FLIST" "$MNT"
            findmnt -n -o OPTIONS "$MNT"
            finish
        """)
        first, second = (set(line.split(",")) for line in done.stdout.splitlines())
        assert not first & {"nosuid", "nodev"}
        assert second & {"nosuid", "nodev"} == {"nosuid"}


def test_the_words_of_mount8(play: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """mount.fuse keeps -f and -s to itself; linked as the helper we are told."""
    done = play(f"""{AS_HELPER}
        mount -f -t fuse.zerofs -o "ro,$OPTIONS" "$FLIST" "$MNT"
        ! mountpoint -q "$MNT"
        ! mount -f -t fuse.zerofs -o "ro,make_it_so,$OPTIONS" "$FLIST" "$MNT"
        mount -nvs -t fuse.zerofs -o "ro,make_it_so,$OPTIONS" "$FLIST" "$MNT"
        cat "$MNT/file"
        cd "$(dirname "$MNT")"
        "$BINARIES/zerofs" warmup --check "$MNT" >&2
        finish
    """)
    assert done.stdout == "content\n"
    assert "make_it_so" in done.stderr and "1 of 1 files" in done.stderr


@pytest.mark.parametrize(
    "words",
    [["-N", "/proc/1/ns/mnt"], ["-x"], ["-o"], ["third"]],
    ids=["namespace", "switch", "value", "place"],
)
def test_words_that_the_helper_does_not_take(words: list[str]) -> None:
    with pytest.raises(UsageError):
        helper.main(["/flist", "/mnt", "-f", "-o", "ro", *words])


def test_failures_are_told(play: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    missing = play('mount -t fuse.zerofs -o "ro,$OPTIONS" "$FLIST.missing" "$MNT"', 3)
    assert missing.stderr.startswith("zerofs: ") and "missing" in missing.stderr
    unknown = play('mount -t fuse.zerofs -o "ro,make_it_so,$OPTIONS" "$FLIST" "$MNT"', 2)
    assert "make_it_so" in unknown.stderr
