"""Programs lead to what they load: libraries by every way of the loader, interpreters, and nothing outside."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

from tests.guess.images import BLOCK, TestImage, compile_c, write
from zerofs.prefetch.guess import elf, ldcache, script

MACHINE = elf.layout(Path(sys.executable).read_bytes()[: elf.HEAD]).machine  # type: ignore[union-attr]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


def cache_of(libraries: dict[str, str], *, old: bool = False) -> bytes:
    """What ldconfig would write for programs of this machine."""
    abi = ldcache._ABI[MACHINE] | 3
    header, strings, entries = 48, b"", b""
    base = header + 24 * len(libraries)
    for name, path in libraries.items():
        entries += struct.pack("<iIIIQ", abi, base + len(strings), base + len(strings) + len(name) + 1, 0, 0)
        strings += f"{name}\0{path}\0".encode()
    new = (
        b"glibc-ld.so.cache1.1"
        + struct.pack("<II4xI12x", len(libraries), len(strings), 0)
        + entries
        + strings
    )
    return b"ld.so-1.7.0\0" + struct.pack("<I12x4x", 1) + new if old else new


def test_a_chain_of_libraries_is_followed_to_its_end(root: Path) -> None:
    compile_c(root / "opt/lib/libc1.so")
    compile_c(
        root / "opt/lib/libb1.so", f"-L{root}/opt/lib", "-lc1", "-Wl,-rpath,$ORIGIN", "-Wl,--enable-new-dtags"
    )
    compile_c(
        root / "opt/bin/program", "-pie", "-e", "zero", f"-L{root}/opt/lib", "-lb1",
        "-Wl,-rpath-link," + str(root / "opt/lib"), "-Wl,-rpath,${ORIGIN}/../lib", "-Wl,--enable-new-dtags",
    )  # fmt: skip
    image = TestImage(root)
    assert image.follow("opt/bin/program") == ["opt/lib/libb1.so", "opt/lib/libc1.so"]


def test_rpath_holds_for_the_libraries_of_libraries_and_runpath_does_not(root: Path) -> None:
    for place, tags in (("old", "--disable-new-dtags"), ("new", "--enable-new-dtags")):
        compile_c(root / place / "sub/libc1.so")
        compile_c(root / place / "sub/libb1.so", f"-L{root / place}/sub", "-lc1")
        compile_c(
            root / place / "program", "-pie", "-e", "zero", f"-L{root / place}/sub", "-lb1",
            f"-Wl,-rpath-link,{root / place}/sub", "-Wl,-rpath,$ORIGIN/sub", f"-Wl,{tags}",
        )  # fmt: skip
    image = TestImage(root)
    assert image.follow("old/program") == ["old/sub/libb1.so", "old/sub/libc1.so"]
    assert image.follow("new/program") == ["new/sub/libb1.so"]


def test_a_runpath_ends_what_the_loaders_rpath_said(root: Path) -> None:
    compile_c(root / "sub/libc1.so")
    for tags, name in (("--enable-new-dtags", "libb1.so"), ("--disable-new-dtags", "libb2.so")):
        compile_c(root / "sub" / name, f"-L{root}/sub", "-lc1", "-Wl,-rpath,/nowhere", f"-Wl,{tags}")
    for program in ("b1", "b2"):
        compile_c(
            root / program, "-pie", "-e", "zero", f"-L{root}/sub", f"-l{program}", f"-Wl,-rpath-link,{root}/sub",
            "-Wl,-rpath,$ORIGIN/sub", "-Wl,--disable-new-dtags",
        )  # fmt: skip
    image = TestImage(root)
    assert image.follow("b1") == ["sub/libb1.so"]
    assert image.follow("b2") == ["sub/libb2.so", "sub/libc1.so"]


@pytest.mark.parametrize("old", [False, True])
def test_the_cache_of_the_image_says_where_libraries_lie(root: Path, old: bool) -> None:
    compile_c(root / "strange/place/libc1.so.2", "-Wl,-soname,libc1.so")
    compile_c(
        root / "bin/program", "-pie", "-e", "zero", f"-L{root}/strange/place", "-l:libc1.so.2",
        "-Wl,-dynamic-linker,/lib/loader.so",
    )  # fmt: skip
    write(
        root,
        {
            "etc/ld.so.cache": cache_of({"libc1.so": "/strange/place/libc1.so.2"}, old=old),
            "lib/loader.so": "x",
        },
    )
    image = TestImage(root)
    assert image.follow("bin/program") == ["lib/loader.so", "etc/ld.so.cache", "strange/place/libc1.so.2"]


def test_libraries_of_another_machine_are_not_taken_from_the_cache() -> None:
    other = next(machine for machine in ldcache._ABI if machine != MACHINE)
    data = cache_of({"libx.so": "/libx.so"})
    assert ldcache.parse(data, MACHINE) == {b"libx.so": b"/libx.so"}
    assert ldcache.parse(data, other) == {}


def test_links_lead_to_files_of_the_image_and_never_out_of_it(root: Path) -> None:
    compile_c(root / "usr/lib/real.so")
    compile_c(root / "bin/program", "-pie", "-e", "zero", f"-L{root}/usr/lib", "-l:real.so")
    secret = root.parent / "outside.so"
    write(root.parent, {"outside.so": "not of the image"})
    (root / "lib").symlink_to("../../../../usr/lib")  # as deep as it is, it ends at the root
    image = TestImage(root)
    assert image.follow("bin/program") == ["usr/lib/real.so"]
    (root / "usr/lib/real.so").rename(root / "usr/lib/other.so")
    (root / "usr/lib/real.so").symlink_to(secret)
    assert TestImage(root).follow("bin/program") == []
    (root / "usr/lib/real.so").unlink()
    (root / "usr/lib/real.so").symlink_to("real.so")  # for ever
    assert TestImage(root).follow("bin/program") == []


def test_a_large_library_is_guessed_where_loading_touches_it(root: Path) -> None:
    compile_c(
        root / "usr/lib/large.so", code="char filler[24 << 20] = {1}; int zero(void) { return filler[0]; }"
    )
    os.truncate(root / "usr/lib/large.so", 40 << 20)  # debugging information, say
    compile_c(root / "bin/program", "-pie", "-e", "zero", f"-L{root}/usr/lib", "-l:large.so")
    image = TestImage(root)
    refs = image.tree.refs(image.row("usr/lib/large.so"))
    steps = list(image.guesses().steps(image.row("bin/program")))
    layout = elf.layout((root / "usr/lib/large.so").read_bytes()[: elf.HEAD])
    assert layout is not None
    touched = {(span.offset + at) // BLOCK for span in layout.written for at in (0, span.size - 1)}
    guessed = {refs.index(chunk) for step in steps for chunk in step if chunk in refs}
    assert touched <= guessed
    assert max(guessed - {len(refs) - 1}) <= max(touched)
    assert steps[1] == [refs[0], refs[-1]]  # known before anything of it was read


def test_a_script_leads_to_its_interpreter(root: Path) -> None:
    compile_c(root / "usr/lib/libx.so")
    compile_c(root / "usr/bin/interpreter", "-pie", "-e", "zero", f"-L{root}/usr/lib", "-lx")
    compile_c(root / "usr/bin/env", "-pie", "-e", "zero")
    write(root, {"a": "#!/usr/bin/interpreter -x\n", "b": "#! /usr/bin/env -S A=1 interpreter\n"}, 0o755)
    image = TestImage(root)
    assert image.follow("a") == ["usr/bin/interpreter", "usr/lib/libx.so"]
    assert image.follow("b") == ["usr/bin/env", "usr/bin/interpreter", "usr/lib/libx.so"]


@pytest.mark.parametrize("head", [b"", b"#", b"#!", b"#!\n/bin/sh", b"text", b"#!" + b"x" * 300])
def test_what_is_no_script_starts_nothing(head: bytes) -> None:
    assert script.programs(head) == []
