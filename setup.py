"""Builds the Cython extensions; everything else is declared in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEVELOPER = os.environ.get("ZEROFS_DEVELOPER") == "1"  # warnings become errors
ANNOTATE = os.environ.get("ZEROFS_ANNOTATE") == "1"  # an HTML page next to each .pyx
CFLAGS = ["-O3", "-Wall", "-Wno-unused-function"] + (["-Werror"] if DEVELOPER else [])

extensions = [
    Extension(
        "zerofs._fast",
        ["zerofs/_fast.pyx", "zerofs/kernels/xxtea.c"],
        depends=[
            "zerofs/kernels/xxtea.h",
            "zerofs/kernels/fuse_wire.h",
            "zerofs/kernels/guarded.h",
            "zerofs/kernels/recency.h",
        ],
        include_dirs=["zerofs/kernels"],
        extra_compile_args=CFLAGS,
    ),
    Extension(
        "zerofs.chunk._batch",
        [
            "zerofs/chunk/_batch.pyx",
            "zerofs/kernels/xxtea_lanes.c",
            "zerofs/kernels/blake2b_lanes.c",
        ],
        depends=[
            "zerofs/kernels/lanes.h",
            "zerofs/kernels/xxtea_lanes.h",
            "zerofs/kernels/xxtea_lanes.inc",
            "zerofs/kernels/blake2b_lanes.h",
            "zerofs/kernels/blake2b_lanes.inc",
        ],
        include_dirs=["zerofs/kernels"],
        extra_compile_args=CFLAGS,
    ),
    Extension("zerofs.flist._record", ["zerofs/flist/_record.pyx"], extra_compile_args=CFLAGS),
    Extension("zerofs.flist._tables", ["zerofs/flist/_tables.pyx"], extra_compile_args=CFLAGS),
    Extension("zerofs.mount._linux", ["zerofs/mount/_linux.pyx"], extra_compile_args=CFLAGS),
]

setup(
    ext_modules=cythonize(
        extensions,
        annotate=ANNOTATE,
        force=ANNOTATE,  # the pages come with a translation only
        language_level=3,
        compiler_directives={"embedsignature": True},
    )
)
