"""Builds the Cython extensions; everything else is declared in pyproject.toml."""

import os
import shlex
import subprocess
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEVELOPER = os.environ.get("ZEROFS_DEVELOPER") == "1"  # warnings become errors
ANNOTATE = os.environ.get("ZEROFS_ANNOTATE") == "1"  # an HTML page next to each .pyx
SANITIZE = os.environ.get("ZEROFS_SANITIZE") == "1"  # ASan and UBSan watch; see scripts/sanitize.sh
SANITIZERS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
    "-g",
]
CFLAGS = ["-O1" if SANITIZE else "-O3", "-Wall", "-Wno-unused-function"] + (["-Werror"] if DEVELOPER else [])
LDFLAGS = SANITIZERS[:1] if SANITIZE else []
if SANITIZE:
    CFLAGS += SANITIZERS

extensions = [
    Extension(
        "zerofs._fast",
        ["zerofs/_fast.pyx", "zerofs/kernels/xxtea.c"],
        depends=[
            "zerofs/kernels/xxtea.h",
            "zerofs/kernels/fuse_wire.h",
            "zerofs/kernels/guarded.h",
            "zerofs/kernels/recency.h",
            "zerofs/kernels/lmdb_pages.h",
            "zerofs/kernels/checksum.h",
        ],
        include_dirs=["zerofs/kernels"],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    ),
    Extension(
        "zerofs.chunk._batch",
        [
            "zerofs/chunk/_batch.pyx",
            "zerofs/kernels/xxtea_lanes.c",
            "zerofs/kernels/blake2b_lanes.c",
            "zerofs/kernels/snappy.c",
        ],
        depends=[
            "zerofs/kernels/lanes.h",
            "zerofs/kernels/xxtea_lanes.h",
            "zerofs/kernels/xxtea_lanes.inc",
            "zerofs/kernels/blake2b_lanes.h",
            "zerofs/kernels/blake2b_lanes.inc",
            "zerofs/kernels/snappy.h",
        ],
        include_dirs=["zerofs/kernels"],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    ),
    Extension(
        "zerofs.chunk._snappy",
        ["zerofs/chunk/_snappy.pyx", "zerofs/kernels/snappy.c"],
        depends=["zerofs/kernels/snappy.h"],
        include_dirs=["zerofs/kernels"],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    ),
    Extension(
        "zerofs.store._resp",
        ["zerofs/store/_resp.pyx"],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    ),
    Extension(
        "zerofs.flist._record",
        ["zerofs/flist/_record.pyx"],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    ),
    Extension(
        "zerofs.flist._tables",
        ["zerofs/flist/_tables.pyx"],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    ),
    Extension(
        "zerofs.mount._linux", ["zerofs/mount/_linux.pyx"], extra_compile_args=CFLAGS, extra_link_args=LDFLAGS
    ),
    Extension(
        "zerofs.mount._forked",
        ["zerofs/mount/_forked.pyx"],
        depends=["zerofs/kernels/forked.h"],
        include_dirs=["zerofs/kernels"],
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    ),
]


class CheckedBuild(build_ext):
    """Says what is missing before a compiler says so at length."""

    def run(self) -> None:
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        found = subprocess.run(
            [*compiler, "-E", "-x", "c", "-"],
            input=b"#include <xxhash.h>\n",
            capture_output=True,
            check=False,
        )
        if found.returncode != 0:
            raise SystemExit(
                "zerofs cannot be built: the C header xxhash.h is not found; it comes with libxxhash-dev "
                "(Debian, Ubuntu) or xxhash-devel (Fedora)"
            )
        super().run()


setup(
    cmdclass={"build_ext": CheckedBuild},
    ext_modules=cythonize(
        extensions,
        annotate=ANNOTATE,
        force=ANNOTATE,  # the pages come with a translation only
        language_level=3,
        compiler_directives={"embedsignature": True},
    ),
)
