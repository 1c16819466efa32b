"""Modules lead to what they import, other files to small ones beside them; nothing is said twice."""

from __future__ import annotations

import py_compile
from pathlib import Path

import pytest

from tests.guess.images import TestImage, write
from zerofs.prefetch.guess import siblings

SOURCES: dict[str, str | bytes] = {
    "lib/python3.11/encodings/__init__.py": "import codecs, late",
    "lib/python3.11/encodings/aliases.py": "names = ['late', 'utf_8', 'cp437']",
    "lib/python3.11/encodings/utf_8.py": "",
    "lib/python3.11/encodings/cp437.py": "",
    "lib/python3.11/codecs.py": "",
    "lib/python3.11/late.py": "import fast",
    "lib/python3.11/sitecustomize.py": "",
    "lib/python3.11/unrelated.py": "",
    "lib/python3.11/lib-dynload/fast.cpython-311-any.so": "no ELF",
    "lib/python3/dist-packages/app/__init__.py": "from .core import run\nimport late as later",
    "lib/python3/dist-packages/app/core/__init__.py": "from . import (part)\nfrom ..other import x",
    "lib/python3/dist-packages/app/core/part.py": "",
    "lib/python3/dist-packages/app/other.py": "import app.core.part",
}


def compiled(root: Path) -> None:
    """Compile every module to where Python 3.11 looks for it, whichever Python this is."""
    for path in list(root.rglob("*.py")):
        py_compile.compile(str(path), str(path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc"))


@pytest.fixture
def image(tmp_path: Path) -> TestImage:
    root = tmp_path / "root"
    write(root, SOURCES)
    compiled(root)
    write(root, {"bin/python3.11": b"\x7fELF and no more"}, 0o755)
    return TestImage(root)


def short(paths: list[str]) -> set[str]:
    """The names of modules, without where they lie and what ends them."""
    return {path.rpartition("/")[2].partition(".")[0] for path in paths}


def test_an_interpreter_leads_to_what_it_always_imports(image: TestImage) -> None:
    found = image.follow("bin/python3.11")
    assert all("/__pycache__/" in path for path in found)
    assert short(found) == {"__init__", "aliases", "utf_8", "sitecustomize"}


def test_a_compiled_module_leads_to_the_compiled_modules_that_it_imports(image: TestImage) -> None:
    cached = "lib/python3/dist-packages/app/core/__pycache__/__init__.cpython-311.pyc"
    found = image.follow("bin/python3.11", cached)
    assert "lib/python3/dist-packages/app/core/__pycache__/part.cpython-311.pyc" in found
    assert "lib/python3/dist-packages/app/__pycache__/other.cpython-311.pyc" in found
    assert "unrelated" not in short(found)


def test_an_import_from_the_interpreters_roots_is_found(image: TestImage) -> None:
    """The standard library, and its compiled extensions, from a package that lies elsewhere."""
    app = "lib/python3/dist-packages/app/__pycache__/__init__.cpython-311.pyc"
    late = "lib/python3.11/__pycache__/late.cpython-311.pyc"
    found = image.follow("bin/python3.11", app)
    assert late in found
    assert "lib/python3/dist-packages/app/core/__pycache__/__init__.cpython-311.pyc" in found
    extension = "lib/python3.11/lib-dynload/fast.cpython-311-any.so"
    assert extension not in found
    assert extension in image.follow("bin/python3.11", app, late)


def test_sources_lead_to_sources_where_nothing_is_compiled(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, {"a/main.py": "import helper.deep\nfrom other import x  # unrelated\n", "a/other.py": "#",
                 "a/helper/__init__.py": "#", "a/helper/deep.py": "#", "a/unrelated.py": "#"})  # fmt: skip
    found = TestImage(root).follow("a/main.py")
    assert found == ["a/helper/__init__.py", "a/helper/deep.py", "a/other.py"]


def test_codecs_are_not_taken_for_imports(image: TestImage) -> None:
    assert "cp437" not in short(
        image.follow("bin/python3.11", "lib/python3.11/encodings/__pycache__/aliases.cpython-311.pyc")
    )


def test_small_files_beside_one_are_guessed_more_of_them_the_more_are_touched(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, {f"etc/conf.d/{number:03}": "x" * 100 for number in range(200)})
    write(root, {"etc/conf.d/large": b"x" * (siblings.SMALL + 1), "etc/only/one": "x", "etc/elsewhere": "x"})
    write(root, {"etc/conf.d/program": "x"}, 0o755)
    image = TestImage(root)
    guesses = image.guesses()

    def touch(name: str) -> list[str]:
        return image.files(guesses.follow(image.row(f"etc/conf.d/{name}")))

    first = touch("100")
    assert first == [f"etc/conf.d/{number}" for number in range(101, 101 + siblings.FIRST_FILES)]
    assert touch("100") == []
    second = touch("120")
    assert len(second) > len(first)
    assert not set(first) & set(second)
    rest = [name for number in range(130, 140) for name in touch(str(number))]
    assert len({*first, *second, *rest}) >= 195
    assert not {"etc/conf.d/large", "etc/conf.d/program", "etc/only/one"} & {*first, *second, *rest}


def test_a_file_alone_in_a_directory_of_its_own_counts_as_beside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(
        root,
        {
            "C.utf8/LC_CTYPE": "x",
            "C.utf8/LC_MESSAGES/SYS_LC_MESSAGES": "x",
            "C.utf8/two/a": "",
            "C.utf8/two/b": "x",
        },
    )
    assert TestImage(root).follow("C.utf8/LC_CTYPE") == ["C.utf8/LC_MESSAGES/SYS_LC_MESSAGES"]


def test_programs_are_not_guessed_for_where_they_lie(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, {"bin/a": "#!/bin/sh\n", "bin/b": "#!/bin/sh\n", "bin/c": "text"}, 0o755)
    assert TestImage(root).follow("bin/a") == []


def test_what_cannot_be_read_leads_nowhere(image: TestImage) -> None:
    image.read = lambda row, offset, size: None  # type: ignore[method-assign]
    for path in (
        "bin/python3.11",
        "lib/python3.11/late.py",
        "lib/python3.11/__pycache__/late.cpython-311.pyc",
    ):
        assert image.follow(path) == []
