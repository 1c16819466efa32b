"""``python -m zerofs.bench``."""

import sys

from zerofs.bench import main

sys.exit(main())
