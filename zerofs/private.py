"""Whether a directory is its user's alone: what is kept in there is believed later, and mapped into memory.

Used where chunks and where indexes lie.  Stateless.
"""

from __future__ import annotations

import os
import stat


def objection(status: os.stat_result) -> str | None:
    """Why the directory with this `status` must not be trusted by this process, or None.

    Root makes no exception: the owner of a directory can replace all that is in it.  A group may write to it only where
    it is the process's own, as on hosts on which every user has a group of their own.
    """
    if not stat.S_ISDIR(status.st_mode):
        return "not a directory"
    if status.st_uid != os.geteuid():
        return "it belongs to another user"
    if status.st_mode & stat.S_IWOTH:
        return "everybody may write to it, so its chunks could be anybody's"
    if status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid():
        return "another group may write to it, so its chunks could be anybody's"
    return None


def objection_to_parent(status: os.stat_result) -> str | None:
    """Why a private directory cannot lie in the one with this `status`: another could take its place.  Or None."""
    if status.st_uid not in (0, os.geteuid()):
        return "the directory around it belongs to another user"
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        return "everybody may write to the directory around it"
    return None
