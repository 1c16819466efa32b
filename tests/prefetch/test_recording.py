"""Recording what a mount wants, and merging recordings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerofs.prefetch import recorder as recorder_module
from zerofs.prefetch.merge import FADE_ABOVE, merged, worth_replaying
from zerofs.prefetch.profile import Entry, Profile, decode, encode, read_profile, write_profile
from zerofs.prefetch.recorder import LONGEST, Recorder

HASH = bytes(range(32))


def recorded(*numbers: int) -> Profile:
    return Profile(HASH, 1, tuple(Entry(number, at * 10) for at, number in enumerate(numbers)))


def numbers(profile: Profile) -> list[int]:
    return [entry.number for entry in profile.entries]


# -- merging -------------------------------------------------------------------------------


def test_what_most_recordings_want_comes_first_in_its_order() -> None:
    profile = merged([recorded(9, 1, 2, 3), recorded(8, 1, 2, 3), recorded(7, 1, 2, 3)])
    assert numbers(profile) == [1, 2, 3, 9, 8, 7]
    assert profile.recordings == 3
    assert [entry.wanted for entry in profile.entries] == [3, 3, 3, 1, 1, 1]


def test_times_are_means_of_the_recordings_that_wanted_the_chunk() -> None:
    profile = merged([recorded(1, 2), recorded(2, 1), recorded(3, 1)])
    assert {entry.number: entry.at for entry in profile.entries} == {1: 6, 2: 5, 3: 0}


def test_merging_one_by_one_and_at_once_count_alike() -> None:
    parts = [recorded(*range(n, n + 10)) for n in range(5)]
    step = parts[0]
    for part in parts[1:]:
        step = merged([step, part])
    assert {entry.number: entry.wanted for entry in step.entries} == {
        entry.number: entry.wanted for entry in merged(parts).entries
    }


def test_what_hardly_anybody_wants_is_not_replayed_and_then_left_out() -> None:
    same = [recorded(1, 2) for _ in range(4)]
    profile = merged([*same, recorded(1, 99)])
    assert 99 in numbers(profile)
    assert worth_replaying(profile) == [1, 2]
    assert 99 not in numbers(merged([profile] + same * (FADE_ABOVE // 4)))


def test_old_recordings_fade() -> None:
    profile = recorded(1)
    for _ in range(200):
        profile = merged([profile, recorded(1)])
    assert profile.recordings <= FADE_ABOVE
    changed = profile
    for _ in range(FADE_ABOVE * 2):
        changed = merged([changed, recorded(5)])
    assert numbers(changed)[0] == 5
    assert worth_replaying(changed) == [5]


def test_profiles_of_different_flists_do_not_merge() -> None:
    with pytest.raises(ValueError):
        merged([recorded(1), recorded(1)._replace(content_hash=bytes(32))])


@given(st.lists(st.lists(st.integers(0, 50), unique=True, max_size=30), min_size=1, max_size=40))
def test_what_is_merged_can_be_written(recordings: list[list[int]]) -> None:
    profile = merged([recorded(*each) for each in recordings])
    assert decode(encode(profile), "x") == profile


# -- recording -----------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.profile"


def make(path: Path, *wanted: int) -> Recorder:
    recorder = Recorder(HASH, 100, path)
    for at, number in enumerate(wanted):
        recorder.wanted(number, 1000.0 + at * 0.25)
    return recorder


def test_order_and_times_count_from_the_first_chunk(path: Path) -> None:
    make(path, 5, 3, 4).save()
    assert read_profile(path) == Profile(HASH, 1, (Entry(5, 0), Entry(3, 250), Entry(4, 500)))


def test_nothing_is_written_where_nothing_was_wanted(path: Path) -> None:
    make(path).save()
    assert not path.exists()


def test_a_recording_is_bounded_in_time_and_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST_ENTRIES", 3)
    assert numbers(make(path, 1, 2, 3, 4, 5).recording()) == [1, 2, 3]
    recorder = make(path, 1)
    recorder.wanted(2, 1000.0 + LONGEST + 1)
    recorder.wanted(100, 1000.0)  # a chunk that the flist does not have, from a tree that was swapped in
    assert numbers(recorder.recording()) == [1]


def test_recordings_of_several_mounts_merge(path: Path) -> None:
    for wanted in ((1, 2, 3), (1, 2, 4), (1, 2, 5)):
        make(path, *wanted).save()
    profile = read_profile(path)
    assert profile.recordings == 3
    assert numbers(profile)[:2] == [1, 2]


def test_saving_again_replaces_what_this_mount_saved(path: Path) -> None:
    make(path, 7).save()
    recorder = make(path, 1, 2)
    recorder.save()
    recorder.wanted(3, 1001.0)
    assert recorder.unsaved
    recorder.save()
    assert not recorder.unsaved
    profile = read_profile(path)
    assert profile.recordings == 2
    assert sorted(numbers(profile)) == [1, 2, 3, 7]


def test_what_another_mount_wrote_meanwhile_stays(path: Path) -> None:
    recorder = make(path, 1, 2)
    recorder.save()
    make(path, 1, 9).save()
    before = path.read_bytes()
    recorder.wanted(3, 1001.0)
    recorder.save()
    assert path.read_bytes() == before


def test_a_file_that_is_no_profile_of_this_flist_is_replaced(path: Path) -> None:
    path.write_bytes(b"damaged")
    make(path, 1).save()
    assert numbers(read_profile(path)) == [1]
    write_profile(Profile(bytes(32), 1, (Entry(4, 0),)), path)
    make(path, 2).save()
    assert numbers(read_profile(path)) == [2]


def test_a_place_that_takes_nothing_does_no_harm(path: Path) -> None:
    recorder = make(path.parent / "missing" / "x", 1)
    recorder.save()
    assert not recorder.unsaved
