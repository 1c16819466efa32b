"""``router.yaml``: which pools exist, which ranges of ids their stores hold, and in which order to ask.

The file is read as a tree of nodes, not as Python objects: a key stays the text that stands there (``10:59``
is no number), a repeated key stays a second one, and every fault has its line and column.
All faults of a file are reported together, in one StoreConfigError.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import yaml

from zerofs.errors import StoreConfigError
from zerofs.store.layers import RouterConfig, Rule
from zerofs.store.ranges import parse_range
from zerofs.store.url import parse_store_url

MAX_SIZE = 1024 * 1024  # bytes of a router file
MAX_RULES = 65536  # destinations of one file; aliases could make more of it than its size suggests
MAX_FAULTS = 20  # that one error tells; a file has room for many thousands
_MAX_LINES = 3  # that a warning names

_logger = logging.getLogger(__name__)


class Fault(NamedTuple):
    """What is wrong, and where: counted from 1."""

    line: int
    column: int
    text: str


class _TooManyRules(Exception):
    """The rest of the file is not looked at."""


def parse_router(text: bytes, origin: str) -> RouterConfig:
    """Read a router file; `origin` (a path or URL) names it in messages.

    Raises StoreConfigError with every fault as ``origin:line:column: what``.
    """
    return _Parser(origin).parse(text)


class _Parser:
    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._faults: list[Fault] = []
        self._rules = 0

    def parse(self, text: bytes) -> RouterConfig:
        root = self._compose(text)
        sections = self._sections(root)
        pools: dict[str, tuple[Rule, ...]] = {}
        try:
            pools = self._pools(sections["pools"]) if "pools" in sections else {}
        except _TooManyRules:
            self._fault(root, f"more than {MAX_RULES} destinations")
        lookup = self._names(sections.get("lookup"), "lookup", pools)
        if "lookup" not in sections or _is_empty_list(sections["lookup"]):
            self._fault(sections.get("lookup", root), "lookup names no pool, so nothing would be found")
        cache = self._names(sections.get("cache"), "cache", pools)
        if self._faults:
            raise self._error(sorted(set(self._faults)))
        return RouterConfig(self._origin, pools, lookup, cache)

    def _compose(self, text: bytes) -> yaml.MappingNode:
        if len(text) > MAX_SIZE:
            raise StoreConfigError(
                f"{self._origin}: a router file has at most {MAX_SIZE} bytes, not {len(text)}"
            )
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as fault:
            mark = fault.problem_mark
            place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise self._error([Fault(*place, f"not YAML: {fault.problem or fault.context}")]) from fault
        except yaml.YAMLError as fault:
            raise self._error([Fault(1, 1, f"not YAML: {str(fault).splitlines()[0]}")]) from fault
        except (RecursionError, UnicodeError, ValueError) as fault:
            raise self._error([Fault(1, 1, f"not YAML: {type(fault).__name__}")]) from fault
        if not isinstance(root, yaml.MappingNode):
            raise self._error([Fault(1, 1, "a router file is a mapping with pools and lookup")])
        return root

    def _sections(self, root: yaml.MappingNode) -> dict[str, yaml.Node]:
        sections: dict[str, yaml.Node] = {}
        unknown: list[int] = []  # lines
        for key, value in root.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name not in ("pools", "lookup", "cache"):
                unknown.append(key.start_mark.line + 1)
            elif name in sections:
                self._fault(key, f"{name} stands here a second time")
            else:
                sections[name] = value
        if "pools" not in sections:
            self._fault(root, "it has no pools")
        if unknown:
            lines = ",".join(map(str, unknown[:_MAX_LINES]))
            more = f" and {len(unknown) - _MAX_LINES} more" if len(unknown) > _MAX_LINES else ""
            _logger.warning("%s:%s%s: unknown key in a router file, ignored", self._origin, lines, more)
        return sections

    def _pools(self, node: yaml.Node) -> dict[str, tuple[Rule, ...]]:
        pools: dict[str, tuple[Rule, ...]] = {}
        for key, value in self._pairs(node, "pools"):
            name = self._text(key, "the name of a pool")
            if name is not None:
                pools[name] = pools.get(name, ()) + tuple(self._pool_rules(name, value))
        return pools

    def _pool_rules(self, pool: str, node: yaml.Node) -> Iterator[Rule]:
        for key, value in self._pairs(node, f"pool {pool}"):
            self._rules += 1
            if self._rules > MAX_RULES:
                raise _TooManyRules
            rule = self._rule(key, value)
            if rule is not None:
                yield rule

    def _rule(self, key: yaml.Node, value: yaml.Node) -> Rule | None:
        range_text = self._text(key, "a range of ids")
        url_text = self._text(value, "the URL of a store")
        ids = url = None
        try:
            ids = parse_range(range_text.strip()) if range_text is not None else None
        except ValueError as fault:
            self._fault(key, f"bad range {_shown(range_text or '')}: {fault}")
        try:
            url = parse_store_url(url_text) if url_text is not None else None
        except StoreConfigError as fault:
            self._fault(value, str(fault))
        return Rule(ids, url) if ids and url else None

    def _names(
        self, node: yaml.Node | None, section: str, pools: Mapping[str, tuple[Rule, ...]]
    ) -> tuple[str, ...]:
        if node is None:
            return ()
        if not isinstance(node, yaml.SequenceNode):
            self._fault(node, f"{section} is a list of pools, as in [hub, local]")
            return ()
        names = []
        for each in node.value:
            name = self._text(each, "the name of a pool")
            if name is not None and name not in pools:
                self._fault(each, f"{section} names the pool {_shown(name)}, which does not exist")
            elif name is not None:
                names.append(name)
        return tuple(dict.fromkeys(names))

    def _pairs(self, node: yaml.Node, what: str) -> list[tuple[yaml.Node, yaml.Node]]:
        if isinstance(node, yaml.MappingNode):
            return list(node.value)
        self._fault(node, f"{what} is a mapping")
        return []

    def _text(self, node: yaml.Node, what: str) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.value:
            return str(node.value)
        self._fault(node, f"here stands {what}, as text")
        return None

    def _fault(self, node: yaml.Node, text: str) -> None:
        self._faults.append(Fault(node.start_mark.line + 1, node.start_mark.column + 1, text))

    def _error(self, faults: list[Fault]) -> StoreConfigError:
        lines = [f"{self._origin}:{fault.line}:{fault.column}: {fault.text}" for fault in faults[:MAX_FAULTS]]
        if len(faults) > MAX_FAULTS:
            lines.append(f"and {len(faults) - MAX_FAULTS} faults more")
        return StoreConfigError("; ".join(lines))


def _is_empty_list(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and not node.value


def _shown(text: str) -> str:
    return repr(text if len(text) <= 64 else text[:64] + "…")
