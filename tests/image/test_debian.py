"""A real image end to end: packed, mounted as a container host does, used, its chunks left as they were."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.debianroot import DebianRoot
from tests.support.manifest import manifest
from tests.support.redisserver import RedisServer
from tests.support.sandbox import MountProcess, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a chroot takes root")


class Packed(NamedTuple):
    """The image as a container host finds it."""

    flist: Path
    server: RedisServer


@pytest.fixture(scope="module")
def packed(debian_root: DebianRoot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packed]:
    directory = tmp_path_factory.mktemp("image")
    with RedisServer(directory / "redis") as server:
        flist = directory / "debian.flist"
        Sandbox(directory).run(
            "zerofs", "pack", "--store", server.url, debian_root.directory, flist, timeout=300
        )
        yield Packed(flist, server)


@pytest.fixture
def mount_image(sandbox: Sandbox, packed: Packed) -> Callable[[], MountProcess]:
    """Mounts it read-write with the usual call of a container host."""

    def mount() -> MountProcess:
        backend = sandbox.directory("backend")
        return sandbox.mount(
            *("--reset", "--backend", backend, "--cache", sandbox.path / "ca", "--log", sandbox.path / "log"),
            *("--meta", packed.flist, "--storage-url", packed.server.url),
        )

    return mount


def chroot(root: Path, *argv: str) -> str:
    """What a program says that runs with `root` as its root directory."""
    done = subprocess.run(["chroot", root, *argv], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_programs_run_and_files_are_edited(
    packed: Packed, mount_image: Callable[[], MountProcess], debian_root: DebianRoot
) -> None:
    stored = packed.server.dump()
    mount = mount_image()

    said = chroot(mount.target, "python3", "-c", "import json, ssl; print(json.dumps(ssl.OPENSSL_VERSION))")
    assert said.startswith('"OpenSSL')
    assert chroot(mount.target, "apt-get", "--version").startswith("apt ")

    issue = mount.target / "etc/issue"
    before = (debian_root.directory / "etc/issue").read_bytes()
    assert issue.read_bytes() == before
    with issue.open("ab") as file:
        file.write(b"edited\n")
    assert chroot(mount.target, "cat", "/etc/issue").encode() == before + b"edited\n"

    assert mount.stop() == 0
    assert packed.server.dump() == stored


def test_the_whole_tree_is_what_was_packed(
    mount_image: Callable[[], MountProcess], debian_root: DebianRoot
) -> None:
    mount = mount_image()
    assert list(manifest(mount.target)) == list(manifest(debian_root.directory))
    assert mount.stop() == 0


def test_a_tar_of_it_packs_to_the_same_tree(
    sandbox: Sandbox, packed: Packed, debian_root: DebianRoot
) -> None:
    """From the archive as a stream, into the server that has the chunks already: nothing is added there."""
    stored = packed.server.dump().keys()
    flist = sandbox.path / "from-tar.flist"
    sandbox.run(
        *("zerofs", "pack", "--store", packed.server.url, "-", flist),
        input=debian_root.tar.read_bytes(),
        timeout=300,
    )
    assert packed.server.dump().keys() == stored
    mount = sandbox.mount(
        *("--storage-url", packed.server.url, "--ro", "--cache", sandbox.path / "ca", "--meta", flist)
    )
    assert list(manifest(mount.target)) == list(manifest(debian_root.directory))
    assert mount.stop() == 0
