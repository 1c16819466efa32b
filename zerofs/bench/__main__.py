"""``python -m zerofs.bench``."""

import sys

from zerofs.start import bench

sys.exit(bench())
