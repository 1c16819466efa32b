"""`python -m zerofs` is the `zerofs` command."""

from zerofs.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
