"""What the union does with files: each over a plain directory and over a real FUSE server."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.overlay.conftest import NOBODY, PLAIN, Join, as_nobody
from tests.support.refreshing import refresh
from tests.support.sandbox import Sandbox


@pytest.fixture
def backend(sandbox: Sandbox) -> Path:
    return sandbox.path / "backend"


def test_a_write_copies_up_and_leaves_the_lower_layer(join: Join, backend: Path) -> None:
    with join(backend) as union:
        with (union.target / "plain").open("r+b") as file:
            file.write(b"CHANGED")
        assert (union.target / "plain").read_bytes() == b"CHANGED" + PLAIN[7:]
        assert (union.backend.ro / "plain").read_bytes() == PLAIN
        assert (union.backend.rw / "plain").read_bytes() == b"CHANGED" + PLAIN[7:]


def test_a_removed_name_is_whited_out(join: Join, backend: Path) -> None:
    with join(backend) as union:
        (union.target / "plain").unlink()
        assert not (union.target / "plain").exists()
        assert "plain" not in os.listdir(union.target)
        assert stat.S_ISCHR((union.backend.rw / "plain").lstat().st_mode)
        assert (union.backend.ro / "plain").exists()


def test_a_directory_made_in_place_of_a_removed_one_is_empty(join: Join, backend: Path) -> None:
    with join(backend) as union:
        subprocess.run(["rm", "-r", union.target / "dir"], check=True)
        (union.target / "dir").mkdir()
        assert list((union.target / "dir").iterdir()) == []


def test_files_and_whole_lower_directories_are_renamed(join: Join, backend: Path) -> None:
    with join(backend) as union:
        (union.target / "plain").rename(union.target / "other")
        (union.target / "dir").rename(union.target / "moved")
        assert not (union.target / "dir").exists()
        assert (union.target / "other").read_bytes() == PLAIN
        assert (union.target / "moved/deep/leaf").read_text() == "leaf"


def test_chmod_and_chown_copy_no_data(join: Join, backend: Path) -> None:
    with join(backend) as union:
        (union.target / "plain").chmod(0o600)
        subprocess.run(["chown", "-R", "1:2", union.target / "dir"], check=True)
        for name in ("plain", "dir/inner", "dir/deep/leaf"):
            assert "trusted.overlay.metacopy" in os.listxattr(union.backend.rw / name)
        assert (union.backend.rw / "plain").stat().st_blocks * 512 < len(PLAIN) // 2
        assert stat.S_IMODE((union.target / "plain").stat().st_mode) == 0o600
        assert (union.target / "dir/deep/leaf").stat().st_uid == 1
        assert (union.target / "plain").read_bytes() == PLAIN


def test_set_user_id_programs_take_effect(join: Join, backend: Path) -> None:
    with join(backend) as union:
        assert as_nobody(union.target / "suid", "-u").stdout == "0\n"
        assert as_nobody(union.target / "suid", "-ru").stdout == f"{NOBODY}\n"


def test_devices_are_in_force(join: Join, backend: Path) -> None:
    with join(backend) as union:
        os.mknod(union.target / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (union.target / "null").write_bytes(b"gone")
        assert (union.target / "null").read_bytes() == b""


def test_du_counts_both_layers_as_one_device(join: Join, backend: Path) -> None:
    with join(backend) as union:
        (union.target / "new").write_bytes(b"n" * 50_000)
        counted = subprocess.run(
            ["du", "-sx", "--apparent-size", "-B1", union.target], check=True, capture_output=True
        )
        assert int(counted.stdout.split()[0]) > len(PLAIN) + 50_000


def test_the_top_shows_mode_owner_and_time_of_the_lower_root(join: Join, backend: Path) -> None:
    with join(backend) as union:
        top = union.target.stat()
        assert (stat.S_IMODE(top.st_mode), top.st_uid, top.st_gid) == (0o751, 12, 34)
        assert top.st_mtime == 1_000_000_000


def test_every_user_gets_where_the_modes_allow(join: Join) -> None:
    with join() as union:  # its backend is of mode 0700
        assert as_nobody("cat", union.target / "dir/inner").stdout == "inner"
        assert as_nobody("ls", union.target).returncode != 0  # 0751
        assert as_nobody("cat", union.backend.path / "ro/dir/inner").returncode != 0


def test_a_backend_keeps_what_was_done(join: Join, backend: Path) -> None:
    with join(backend) as union:
        (union.target / "new").write_text("kept")
        (union.target / "plain").unlink()
        (union.target / "suid").chmod(0o4711)
        (union.target / "dir").rename(union.target / "moved")
        union.target.chmod(0o700)
    with join(backend) as union:
        assert (union.target / "new").read_text() == "kept"
        assert sorted(os.listdir(union.target)) == ["link", "moved", "new", "suid"]
        assert (union.target / "moved/deep/leaf").read_text() == "leaf"
        assert stat.S_IMODE((union.target / "suid").stat().st_mode) == 0o4711
        assert stat.S_IMODE(union.target.stat().st_mode) == 0o700
    with join(backend, reset=True) as union:
        assert not (union.target / "new").exists()
        assert (union.target / "plain").read_bytes() == PLAIN
        assert stat.S_IMODE(union.target.stat().st_mode) == 0o751


def test_a_backend_keeps_a_top_that_alone_was_changed(join: Join, backend: Path) -> None:
    with join(backend) as union:
        union.target.chmod(0o700)
    with join(backend) as union:
        assert stat.S_IMODE(union.target.stat().st_mode) == 0o700


def test_a_full_memory_layer_tells_the_writer(join: Join) -> None:
    with join(rw_size=1 << 20) as union:
        with pytest.raises(OSError) as caught:
            (union.target / "big").write_bytes(bytes(2 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert (union.target / "plain").read_bytes() == PLAIN


def test_two_private_unions_do_not_disturb_each_other(join: Join) -> None:
    with join(target="one") as one, join(target="two") as two:
        (one.target / "plain").write_text("one")
        assert (two.target / "plain").read_bytes() == PLAIN
        assert one.backend.path != two.backend.path


def test_a_refresh_keeps_open_files_and_flags(join: Join, backend: Path) -> None:
    with join(backend) as union, (union.target / "plain").open("rb") as held:
        refresh(union.overlay)
        assert held.read() == PLAIN
        assert as_nobody(union.target / "suid", "-u").stdout == "0\n"


def test_a_busy_union_is_detached(join: Join, backend: Path) -> None:
    with join(backend) as union:
        held = (union.target / "plain").open("rb")
        union.overlay.close()
        assert list(union.target.iterdir()) == []
        assert held.read() == PLAIN
        held.close()
