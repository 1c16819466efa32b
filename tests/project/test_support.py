"""The suite's own tools: what the other folders rely on when they say that something holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import session
from tests.support.golden import Golden, chunk_file, load_directory
from tests.support.logs import unexpected
from tests.support.manifest import manifest
from tests.support.mounts import mounted_at, mounts_below, remove_tree, unmount_below
from tests.support.sandbox import MountProcess, Sandbox

pytest_plugins = ["pytester"]

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting here takes root")


def test_servers_keep_their_own_data(redis_server):
    first, second = redis_server(), redis_server(password="sesame", unixsocket=True)
    assert first.load([(b"\x00\xff", b"one"), (b"text", b"two")]) == 2
    assert first.dump() == {b"\x00\xff": b"one", b"text": b"two"}
    assert second.dump() == {}
    assert second.url == f"redis://sesame@127.0.0.1:{second.port}"
    assert second.socket.is_socket()


def test_a_server_that_was_stopped_starts_again_empty_on_its_port(redis_server):
    server = redis_server()
    server.load([(b"a", b"1")])
    port = server.port
    server.stop()
    server.start()
    assert server.port == port
    assert server.dump() == {}


def test_golden_chunks_are_as_many_in_a_server_as_in_a_directory(
    redis_server, golden_flist: Golden, tmp_path
):
    server = redis_server()
    count = server.load(golden_flist.chunks())
    assert count > 0
    assert load_directory(tmp_path / "store", golden_flist.chunks()) == count
    stored = server.dump()
    assert len(stored) == count
    for id, payload in stored.items():
        assert chunk_file(tmp_path / "store", id).read_bytes() == payload


def test_manifest_equals_that_of_the_golden_tool(golden: Path, tmp_path):
    tree = tmp_path / "tree"
    (tree / "b" / "\udcff not text").mkdir(parents=True)
    (tree / "a.txt").write_bytes(b"x" * 5)
    (tree / "link").symlink_to("nowhere")
    os.mkfifo(tree / "fifo")
    (tree / "b" / "c").touch()
    (tree / "b" / "c").chmod(0o4755)
    tool = subprocess.run(
        [sys.executable, golden / "tree_manifest.py", tree], capture_output=True, text=True, check=True
    )
    assert list(manifest(tree)) == tool.stdout.splitlines()


@root
def test_unmounting_stays_below_the_directory(tmp_path):
    for name in ("inside", "inside/deep", "beside"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    for name in ("inside/deep", "inside", "beside"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / name], check=True)
    try:
        remove_tree(tmp_path / "inside")
        assert (tmp_path / "inside").is_dir(), "a tree with mounts in it is left alone"
        assert len(unmount_below(tmp_path / "inside")) == 2
        assert mounts_below(tmp_path / "inside") == []
        assert mounted_at(tmp_path / "beside").type == "tmpfs"
    finally:
        unmount_below(tmp_path)


@root
def test_the_leavings_of_a_dead_run_are_swept_and_those_of_a_live_one_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROFS_TEST_TMP", str(tmp_path))
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    dead = tmp_path / f"zerofs-tests-{ended.pid}-1"
    foreign = tmp_path / "zerofs-tests-notes"
    for path in (dead / "mnt", foreign):
        path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", dead / "mnt"], check=True)
    mine = session.open_session()
    session.sweep()
    assert sorted(tmp_path.iterdir()) == sorted([foreign, mine])


def test_loud_lines_are_found_and_expected_ones_are_not():
    log = "10:00 INFO mounted\n10:01 WARNING zerofs.fetch: store slow\nTraceback (most recent call last):\n"
    assert len(unexpected(log)) == 2
    assert unexpected(log, ["store slow", "^Traceback"]) == []


def _script(directory: Path, text: str) -> list[str]:
    path = directory / "script.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def test_a_mount_is_ready_when_it_says_so(tmp_path):
    argv = _script(tmp_path, "import time; print('mount starts', flush=True); time.sleep(60)")
    process = MountProcess(argv, tmp_path, tmp_path / "stderr", (), 10.0)
    assert process.stop() == -15
    assert process.problems() == []


def test_a_mount_that_ends_instead_tells_why(tmp_path):
    argv = _script(tmp_path, "import sys; sys.exit('zerofs: no such flist')")
    with pytest.raises(AssertionError, match=r"exit status 1 instead of a mount(.|\n)*no such flist"):
        MountProcess(argv, tmp_path, tmp_path / "stderr", (), 10.0)


def test_a_loud_mount_is_a_problem(tmp_path):
    script = (
        "print('mount starts', flush=True); print('more'); import sys; print('x ERROR y', file=sys.stderr)"
    )
    process = MountProcess(_script(tmp_path, script), tmp_path, tmp_path / "stderr", (), 10.0)
    process.wait()
    assert len(process.problems()) == 2


@root
def test_a_sandbox_tells_what_was_left_mounted(tmp_path):
    box = Sandbox(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", box.directory("mnt")], check=True)
    assert box.close() == [f"left mounted: {tmp_path / 'mnt'} (tmpfs)"]
    assert mounts_below(tmp_path) == []


def test_a_skip_that_no_line_allows_fails_a_strict_run(pytester):
    pytester.makeconftest(
        "from tests.support.skips import SkipReport\nfrom pathlib import Path\n"
        "def pytest_configure(config):\n"
        "    config.pluginmanager.register(SkipReport(Path('skips.json'), strict=True))\n"
    )
    pytester.makepyfile(
        "import pytest\n"
        "def test_allowed(): pytest.skip('the kernel has no squashfs')\n"
        "def test_forbidden(): pytest.skip('it is Monday')\n"
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*skipped, but must run*", "*test_forbidden: it is Monday*"])
    report = json.loads((pytester.path / "skips.json").read_text())
    assert {entry["test"].partition("::")[2]: entry["allowed"] for entry in report} == {
        "test_allowed": True,
        "test_forbidden": False,
    }
