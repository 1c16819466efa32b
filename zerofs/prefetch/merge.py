"""Several recordings of one flist become one profile.

Role: what most recordings want is replayed first, in the order in which it was wanted; then what fewer want, in
the same order.  Old recordings fade: where there are many, all counts are halved, so that what changed in the
workload changes the profile, and what only one of many wanted is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from zerofs.prefetch.profile import MOST_ENTRIES, Entry, Profile

FADE_ABOVE = 32  # recordings
WORTH_REPLAYING = 4  # one that fewer than one of so many want is not replayed


def merged(profiles: Sequence[Profile]) -> Profile:
    """The profile of all `profiles`, at least one and all of the same flist (ValueError)."""
    hashes = {profile.content_hash for profile in profiles}
    if len(hashes) != 1:
        raise ValueError("profiles of different flists, or none")
    times: dict[int, int] = {}
    counts: dict[int, int] = {}
    for profile in profiles:
        for number, at, count in profile.entries:
            times[number] = times.get(number, 0) + at * count
            counts[number] = counts.get(number, 0) + count
    recordings = sum(profile.recordings for profile in profiles)
    entries = [Entry(number, times[number] // count, count) for number, count in counts.items()]
    while recordings > FADE_ABOVE:
        recordings = (recordings + 1) // 2
        entries = [
            entry._replace(wanted=min(recordings, entry.wanted // 2)) for entry in entries if entry.wanted > 1
        ]
    entries.sort(key=lambda entry: (not _most_want(entry, recordings), entry.at))
    return Profile(hashes.pop(), recordings, tuple(entries[:MOST_ENTRIES]))


def worth_replaying(profile: Profile) -> list[int]:
    """The chunks of `profile` that are likely to be wanted, in its order."""
    least = profile.recordings / WORTH_REPLAYING
    return [entry.number for entry in profile.entries if entry.wanted >= least]


def _most_want(entry: Entry, recordings: int) -> bool:
    return entry.wanted * 2 > recordings
