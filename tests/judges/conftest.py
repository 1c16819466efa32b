"""Fixtures: packed trees and their mounts."""

from tests.mount.conftest import engine, mounted, pack

__all__ = ["engine", "mounted", "pack"]
