"""`make demo`: pack a tree, mount it read-write, run a program out of it, and see how little was fetched.

Nothing but this checkout is used: the chunks go to a directory, the tree is copied from this host.  All of it
happens in ``.demo/``, which is unmounted and removed at the end, also after a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zerofs.cache.lmdb import ChunkCache
from zerofs.mount import mountinfo

BIN = Path(sys.executable).parent
WORK = Path(__file__).resolve().parents[1] / ".demo"
TOOLS = ("sh", "bash", "ls", "cat", "grep", "sed", "tar", "gzip", "perl", "gcc", "as", "ld", "openssl")
PROGRAM = "import json, sys; print(json.dumps({'python': sys.version.split()[0], 'prefix': sys.prefix}))"
LIBRARY = re.compile(r"(/\S+) \(0x")


def say(text: str = "") -> None:
    print(text, flush=True)


def step(title: str) -> None:
    say(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}")


def size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


# -- a tree worth packing ------------------------------------------------------------------


def libraries(program: Path) -> list[Path]:
    """What the dynamic loader of this host maps for `program`, the loader among it."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return [Path(found) for found in LIBRARY.findall(done.stdout)]


def place(source: Path, target: Path) -> None:
    """Copy one file, and whatever it is linked to, into the image."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def place_program(image: Path, program: Path, target: str) -> None:
    place(program, image / target)
    for library in libraries(program):
        place(library, image / str(library).lstrip("/"))


def build_image(image: Path) -> None:
    """A small root: a Python with its whole library, a shell, a compiler and other tools of this host."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    place_program(image, Path(os.path.realpath(sys.executable)), f"usr/bin/{version}")
    (image / "usr/bin/python3").symlink_to(version)
    shutil.copytree(
        library,
        image / f"usr/lib/{version}",
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "dist-packages", "test", "tests", "*.a", "config-*"),
    )
    for extension in (image / f"usr/lib/{version}/lib-dynload").glob("*.so"):
        for found in libraries(extension):
            place(found, image / str(found).lstrip("/"))
    compiler = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, text=True, check=False)
    for tool in [*TOOLS, compiler.stdout.strip()]:
        if tool and (program := shutil.which(tool)):
            place_program(image, Path(os.path.realpath(program)), f"usr/bin/{Path(tool).name}")
    (image / "etc").mkdir()
    (image / "etc/motd").write_text("packed by zerofs\n")


def weight(tree: Path) -> tuple[int, int]:
    """Files and bytes of a tree."""
    sizes = [path.lstat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    return len(sizes), sum(sizes)


# -- mounting and using it -----------------------------------------------------------------


@contextmanager
def mounted(*args: str) -> Iterator[float]:
    """The drop-in command in the foreground; yields the seconds until it was ready."""
    begin = time.monotonic()
    process = subprocess.Popen([BIN / "g8ufs", *args], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "mount starts\n":
            raise SystemExit(f"demo: g8ufs ended with status {process.wait()}")
        yield time.monotonic() - begin
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def run_inside(root: Path) -> str:
    """Run Python out of the mount: in a chroot as root, else by the image's own dynamic loader."""
    if os.geteuid() == 0:
        command = ["chroot", str(root), "/usr/bin/python3", "-c", PROGRAM]
        settings = {}
    else:
        say("  (not root, so no chroot: the image's own loader starts the image's own Python)")
        python = Path(os.path.realpath(sys.executable))
        found = libraries(python)
        loader = next(path for path in found if path.name.startswith("ld"))
        paths = ":".join(sorted({f"{root}{path.parent}" for path in found}))
        command = [f"{root}{loader}", "--library-path", paths, f"{root}/usr/bin/python3", "-c", PROGRAM]
        settings = {"PYTHONHOME": f"{root}/usr"}
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"demo: the program out of the mount failed:\n{done.stderr}")
    return done.stdout.strip()


def main() -> None:
    image, store, flist = WORK / "image", WORK / "store", WORK / "demo.flist"
    target, backend, cache = WORK / "mnt", WORK / "backend", WORK / "cache"
    for directory in (image, store, target, backend, cache):
        directory.mkdir(parents=True)

    step("1. An image: a Python with its library, a shell, a compiler, from this host")
    build_image(image)
    files, total = weight(image)
    say(f"  {files:,} files, {size(total)}")

    step("2. Packed: metadata into a flist, contents into chunks (here in a directory; a Redis does as well)")
    say(f"  $ zerofs pack --store dir://{store.relative_to(WORK.parent)} image demo.flist")
    begin = time.monotonic()
    packed = subprocess.run(
        [BIN / "zerofs", "pack", "--store", f"dir://{store}", image, flist],
        capture_output=True,
        text=True,
        check=False,
    )
    if packed.returncode:
        raise SystemExit(f"demo: zerofs pack failed:\n{packed.stderr}")
    took = time.monotonic() - begin
    chunks, stored = weight(store)
    say(f"  flist {size(flist.stat().st_size)}, {chunks:,} chunks of {size(stored)} in all, {took:.1f} s")
    original = (image / "etc/motd").read_text()
    shutil.rmtree(image)

    step("3. Mounted read-write with the call of a container host")
    say("  $ g8ufs --backend … --cache … --meta demo.flist --storage-url dir://… mnt")
    arguments = ["--backend", str(backend), "--cache", str(cache), "--meta", str(flist)]
    arguments += ["--log", str(WORK / "g8ufs.log"), "--storage-url", f"dir://{store}", str(target)]
    with mounted(*arguments) as ready:
        say(f"  ready after {ready * 1000:.0f} ms: {files:,} files are there, nothing is fetched yet")

        step("4. A program runs out of the mount")
        begin = time.monotonic()
        say(f"  {run_inside(target)}   {(time.monotonic() - begin) * 1000:.0f} ms")

        step("5. A file is edited")
        with (target / "etc/motd").open("a") as file:
            file.write("edited in the mount\n")
        assert (target / "etc/motd").read_text() == original + "edited in the mount\n"
        say("  etc/motd has a new line; the edit lies in the backend, flist and chunks are as they were")
        assert weight(store) == (chunks, stored)

    with ChunkCache(cache, size_limit=1 << 30) as held:
        fetched = held.stats()
    step("6. Fetched, all in all")
    say(f"  {fetched.entries:,} of {chunks:,} chunks; {size(fetched.used)} in the cache")
    say(f"  of an image of {size(total)}: {100 * fetched.used / total:.0f} %")


@contextmanager
def workplace() -> Iterator[None]:
    """`.demo/`, empty at first, gone at the end, nothing mounted in it before or after."""
    clean()
    WORK.mkdir()
    try:
        yield
    finally:
        clean()


def left_mounted() -> list[str]:
    """What is mounted in `.demo/`, the last first."""
    return [mount.target for mount in reversed(mountinfo.read()) if mount.target.startswith(f"{WORK}/")]


def clean() -> None:
    command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount", "-uz"]
    for target in left_mounted():
        subprocess.run([*command, target], check=False)
    if left := left_mounted():
        raise SystemExit(f"demo: still mounted, so not removed: {' '.join(left)}")
    shutil.rmtree(WORK, ignore_errors=not WORK.exists())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with workplace():
        main()
