"""What mounts count, in the text format that Prometheus scrapes, and node_exporter reads from a file.

Takes the documents that mounts answer with (docs/commands.md, `zerofs stats`), each counter of a section as a metric
``zerofs_SECTION_COUNTER_total``.  A document may be of another version, or of a user who is not trusted: what is no
number under a plain name is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from zerofs.cli.change import Look
from zerofs.cli.output import shown
from zerofs.histogram import SHARES

SECTIONS = ("reads", "fetch", "write_back", "cache", "prefetch")
_GAUGES = {  # which go up and down
    "reads": {"waiting"},
    "cache": {"entries", "used", "file", "size_limit", "free_limit"},
    "prefetch": {"wasted", "late"},
}
_NAME = re.compile(r"[a-z][a-z_]{0,40}")
_MOST = 1 << 63
_Labels = tuple[tuple[str, str], ...]


class _Families:
    """Samples by metric, as the format wants them: all of one behind each other, none twice."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, dict[str, float]]] = {}  # name → (type, samples)

    def add(self, name: str, kind: str, labels: _Labels, value: float, suffix: str = "") -> None:
        texts = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        samples = self._families.setdefault(name, (kind, {}))[1]
        samples.setdefault(f"{name}{suffix}{{{texts}}}", value)

    def lines(self) -> Iterator[str]:
        for name, (kind, samples) in sorted(self._families.items()):
            yield f"# TYPE {name} {kind}"
            yield from (f"{sample} {value}" for sample, value in samples.items())


def exposition(looks: Sequence[Look]) -> Iterator[str]:
    """The lines; a mount that does not answer has ``zerofs_up`` 0 and nothing else."""
    families = _Families()
    for look in looks:
        labels = (("mountpoint", _text(look.answer.mount.target)),)
        document = look.answer.document
        families.add("zerofs_up", "gauge", labels, int(document is not None))
        if document is not None:
            _add(families, labels, document)
    return families.lines()


def _add(families: _Families, labels: _Labels, document: Mapping[str, Any]) -> None:
    uptime = _section(document, "mount").get("uptime")
    if _is_number(uptime):
        families.add("zerofs_uptime_seconds", "gauge", labels, uptime)
    for name in SECTIONS:
        _count(families, name, labels, _section(document, name))
    stores = document.get("stores")
    for store in stores if isinstance(stores, list) else ():
        if isinstance(store, dict) and isinstance(url := store.get("store"), str):
            _count(families, "store", (*labels, ("store", _text(url))), store)


def _count(families: _Families, section: str, labels: _Labels, counts: Mapping[str, Any]) -> None:
    gauges = _GAUGES.get(section, set())
    for key, value in counts.items():
        name = f"zerofs_{section}_{key}"
        if not _NAME.fullmatch(key):
            continue
        if key == "latency" and isinstance(value, dict):
            _summarise(families, f"{name}_seconds", labels, value)
        elif isinstance(value, int) and _is_number(value):
            families.add(*((name, "gauge") if key in gauges else (f"{name}_total", "counter")), labels, value)


def _summarise(families: _Families, name: str, labels: _Labels, latency: Mapping[str, Any]) -> None:
    count, mean = latency.get("count"), latency.get("mean")
    if not _is_number(count):
        return
    for key, share in SHARES.items():
        if _is_number(value := latency.get(key)):
            families.add(name, "summary", (*labels, ("quantile", f"{share:g}")), value)
    families.add(name, "summary", labels, count * mean if _is_number(mean) else 0, "_sum")
    families.add(name, "summary", labels, count, "_count")


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST


def _text(text: str) -> str:
    """Valid UTF-8, whatever a name or somebody else's document holds: for one wrong byte, nothing of a file is read."""
    return shown(text.encode("utf-8", "backslashreplace"))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
