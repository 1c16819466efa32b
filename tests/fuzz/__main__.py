"""``python -m tests.fuzz PARSER [--seconds N]``: one harness, led by coverage, from the samples and what is kept.

Takes atheris (``pip install 'zerofs[fuzz]'``).  What fails is written to the directory of the corpus as
``crash-…``: give it the name of its reason, and mend the parser.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.fuzz import CORPUS, NAMES, harness, kept

MOST_INPUT = 16384  # bytes
MOST_MEMORY = 2048  # MiB
MOST_SECONDS = 30  # for one input


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("parser", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install 'zerofs[fuzz]'")
    with atheris.instrument_imports(
        include=["zerofs", "tarfile", "yaml", "tests.fuzz.parsers", "tests.index"],
        enable_loader_override=False,
    ):
        target, samples = harness(args.parser)
        for sample in samples():
            target(sample)  # what is imported when first used is so imported here

    def run(data: bytes) -> None:
        target(data)

    out = CORPUS / args.parser
    out.mkdir(exist_ok=True)
    seeds = Path(tempfile.mkdtemp(prefix="zerofs-seeds-"))
    for number, data in enumerate([*samples(), *(path.read_bytes() for path in kept(args.parser))]):
        (seeds / f"seed-{number}").write_bytes(data)
    options = {
        "max_total_time": args.seconds,
        "max_len": MOST_INPUT,
        "rss_limit_mb": MOST_MEMORY,
        "timeout": MOST_SECONDS,
        "artifact_prefix": f"{out}{os.sep}",
        "print_final_stats": 1,
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(seeds)],
        run,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
