"""`python -m zerofs` is the `zerofs` command."""

from zerofs.start import zerofs

if __name__ == "__main__":
    raise SystemExit(zerofs())
