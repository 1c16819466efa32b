"""``router.yaml``: one error that names all faults, or rules that can be used."""

from __future__ import annotations

from zerofs.errors import StoreConfigError
from zerofs.store.routerfile import MAX_RULES, parse_router


def target(data: bytes) -> None:
    try:
        config = parse_router(data, "router.yaml")
    except StoreConfigError as error:
        assert str(error).isprintable() or "\n" not in str(error)
        return
    assert config.lookup and set(config.lookup) | set(config.cache) <= set(config.pools)
    assert sum(map(len, config.pools.values())) <= MAX_RULES
    for rules in config.pools.values():
        for rule in rules:
            assert rule.ids is not None and rule.url is not None


def samples() -> list[bytes]:
    return [
        b"pools:\n  hub:\n    00:FF: zdb://hub.example:9900\n  local:\n    00:7f: redis://127.0.0.1:16379/3\n"
        b"    80:ff: ardb://localhost\nlookup: [local, hub]\ncache:\n  - local\n",
        b"pools: {a: &x {'*': 'https://u:p@h/x?y'}, b: *x}\nlookup: [a, b]\nother: 1\n",
        b"pools:\n  a: {00-0f: dir:///srv/store, 10:ff: 'redis-cluster://a:1,b:2'}\nlookup: [a]\n",
        b"%YAML 1.1\n---\n? pools\n: !!map {a: {0:f: redis:///tmp/sock}}\n? lookup\n: !!seq [a]\n...\n",
    ]
