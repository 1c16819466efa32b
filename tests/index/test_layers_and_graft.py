"""Several flists as one tree, and a tree swapped under ids that are in use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.index.trees import Tree, TreeReader, file, link, listing
from zerofs.flist.compile import compile_flist
from zerofs.flist.graft import Graft, graft
from zerofs.flist.index import Index
from zerofs.flist.layers import LayeredReader


def compiled(tree: Tree, mode: int = 0o755) -> Index:
    return Index.anonymous(compile_flist(TreeReader(tree, mode)))


def layered(*trees: Tree) -> Index:
    return Index.anonymous(compile_flist(LayeredReader([compiled(tree) for tree in trees])))


def union(lower: Tree, upper: Tree) -> Tree:
    """The plain model of layering."""
    merged = dict(lower)
    for name, child in upper.items():
        below = merged.get(name)
        merged[name] = union(below, child) if isinstance(child, dict) and isinstance(below, dict) else child
    return merged


def test_the_last_layer_is_on_top() -> None:
    found = layered({"f": file("low"), "only": file("low")}, {"f": file("high")})
    assert listing(found) == listing(compiled({"f": file("high"), "only": file("low")}))


def test_a_file_hides_everything_below_its_path() -> None:
    found = layered(
        {"d": {"deep": {"x": file("low")}}}, {"d": file("in the way")}, {"d": {"y": file("high")}}
    )
    assert listing(found) == listing(compiled({"d": {"y": file("high")}}))


def test_attributes_are_the_topmost_ones() -> None:
    layers = [compiled({"d": {"a": file("1")}}, 0o755), compiled({"d": {"b": file("2")}}, 0o700)]
    found = listing(Index.anonymous(compile_flist(LayeredReader(layers))))
    assert found["d"][1].mode == 0o700
    assert found[""][1].mode == 0o700
    assert "d/a" in found and "d/b" in found


trees = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.sampled_from([file("x"), file("y"), link("t")]), max_size=3),
    lambda below: st.dictionaries(st.sampled_from("abc"), st.one_of(below, st.just(file("z"))), max_size=3),
    max_leaves=8,
)


@given(trees, trees, trees)
def test_layering_agrees_with_the_model(one: Tree, two: Tree, three: Tree) -> None:
    assert listing(layered(one, two, three)) == listing(compiled(union(union(one, two), three)))


def swapped(before: Index, after: Tree) -> tuple[Graft, Index]:
    result = graft(before, compiled(after))
    return result, Index.anonymous(result.tables)


@given(trees, trees, trees)
def test_a_graft_shows_the_new_tree(one: Tree, two: Tree, three: Tree) -> None:
    _, second = swapped(compiled(one), two)
    assert listing(second) == listing(compiled(two))
    _, third = swapped(second, three)
    assert listing(third) == listing(compiled(three))


@given(trees, trees)
def test_unchanged_paths_keep_their_rows_and_old_rows_stay(one: Tree, two: Tree) -> None:
    before = compiled(one)
    _, after = swapped(before, two)
    old, new = dict(before.walk()), dict(after.walk())
    before_list, after_list = listing(before), listing(after)
    for path, row in old.items():
        same_kind = path in new and before.node(row).kind is after.node(new[path]).kind
        parents_kept = path == b"" or new.get(path.rpartition(b"/")[0]) == old[path.rpartition(b"/")[0]]
        if before_list[path.decode()] == after_list.get(path.decode()) and same_kind and parents_kept:
            assert new[path] == row
        elif not before.children(row) and before.node(row).mode & 0o170000 != 0o040000:
            assert new.get(path) != row  # replaced: a new id
            assert after.refs(row) == before.refs(row)  # and the old one still has its bytes
            assert after.node(row) == before.node(row)
    chunks = [before.chunk(number) for number in range(before.chunk_count)]
    assert [after.chunk(number) for number in range(before.chunk_count)] == chunks


def test_a_graft_names_what_the_kernel_must_forget() -> None:
    before = compiled({"keep": file("k"), "gone": file("g"), "new version": file("1"), "d": {"x": file("x")}})
    result, after = swapped(
        before, {"keep": file("k"), "fresh": file("f"), "new version": file("2"), "d": {"x": file("x")}}
    )
    assert sorted(result.entries) == [(0, b"fresh"), (0, b"gone"), (0, b"new version")]
    assert sorted(result.replaced) == sorted(
        ((0, name), before.lookup(0, name)) for name in (b"gone", b"new version")
    )
    assert result.rows == [0]
    assert after.lookup(0, b"d") == before.lookup(0, b"d")


def test_a_directory_whose_attributes_change_keeps_its_row() -> None:
    before = compiled({"d": {"x": file("x")}}, 0o755)
    result = graft(before, compiled({"d": {"x": file("x")}}, 0o700))
    after = Index.anonymous(result.tables)
    assert after.resolve(b"d") == before.resolve(b"d")
    assert listing(after)["d"][1].mode == 0o700
    assert len(result.rows) == 2 and result.entries == []
