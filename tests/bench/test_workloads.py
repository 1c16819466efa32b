"""Running what a container runs, and pulling its image as a whole."""

import pytest

from tests.support.manifest import manifest
from zerofs.bench import workloads
from zerofs.bench.corpus import synthetic_image
from zerofs.bench.starts import FullPull, Lazy, Profile, Warm
from zerofs.bench.workloads import WORKLOADS, Workload, is_possible
from zerofs.errors import MountError

BY_NAME = {workload.name: workload for workload in WORKLOADS}


def run(tree, *argv):
    return workloads.run(Workload("work", "", argv), tree, chroot=False)


def test_the_first_output_is_not_the_end(tmp_path):
    ran = run(tmp_path, "sh", "-c", "echo first; read -r wait < /dev/null; echo last")
    assert ran.first < ran.end


def test_who_says_nothing_is_judged_by_its_end(tmp_path):
    ran = run(tmp_path, "true")
    assert ran.first == ran.end


def test_more_output_than_a_pipe_holds_is_taken_away(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * (3 << 20))
    ran = workloads.run(BY_NAME["read-all"], tmp_path, chroot=False)
    assert ran.first < ran.end


def test_a_failure_is_told_with_its_last_words(tmp_path):
    with pytest.raises(MountError, match="work ended with status 3: it broke"):
        run(tmp_path, "sh", "-c", "echo starting >&2; echo it broke >&2; exit 3")


def test_an_image_without_the_program_is_known_beforehand(tmp_path):
    assert is_possible(BY_NAME["find"], tmp_path)
    assert not is_possible(BY_NAME["numpy"], tmp_path)
    (tmp_path / "usr/lib/python3/dist-packages/numpy").mkdir(parents=True)
    assert is_possible(BY_NAME["numpy"], tmp_path)


def test_a_pulled_image_is_the_image(redis_server, tmp_path):
    server = redis_server()
    image = synthetic_image(tmp_path / "image", 60)
    pull = FullPull(image, tmp_path)
    pull.prepare(server.url)
    for _ in range(2):
        assert pull.pull(server.url) > 0
        assert list(manifest(pull.tree)) == list(manifest(image.directory))
    assert sum(map(len, server.dump().values())) == pull.size
    pull.remove()
    assert not pull.tree.exists()


def test_a_pull_of_less_than_the_archive_fails(redis_server, tmp_path):
    server = redis_server()
    pull = FullPull(synthetic_image(tmp_path / "image", 30), tmp_path)
    pull.prepare(server.url)
    with server.client() as client:
        client.command("FLUSHALL")
    with pytest.raises(MountError, match="not whole"):
        pull.pull(server.url)


def test_an_option_that_this_build_lacks_is_named():
    class Clairvoyant(Lazy):
        prefetch = "clairvoyance"

    assert Clairvoyant.missing() == "this build has no --prefetch clairvoyance"
    assert Lazy.missing() is None
    assert Warm.missing() is None


def test_a_kept_profile_is_all_that_the_next_start_finds(tmp_path):
    mode = Profile(synthetic_image(tmp_path / "image", 3), tmp_path)
    place = mode.cache / "flists"
    place.mkdir(parents=True)
    assert not mode.keep("find")
    (place / "abc.profile").write_bytes(b"recorded")
    (place / "abc.index").write_bytes(b"compiled")
    assert mode.keep("find")
    (place / "abc.profile").write_bytes(b"another")
    mode.make_ready("find")
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {"abc.profile": b"recorded"}
