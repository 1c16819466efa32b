"""The Zero-OS file system for containers: a flist is mounted, its chunks are fetched when they are read."""

__version__ = "0.1.0"
