"""What happens to a mount in a soak: each fault strikes, and most are undone after a while.

One thread strikes and undoes; nothing here waits for the mount, but the end of a killed process and the start of
the next.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from zerofs.bench.faultproxy import Fault
from zerofs.bench.soak.disk import SmallDisk
from zerofs.bench.soak.mounted import Mounted
from zerofs.bench.soak.stores import Replica, Stores

Undo = Callable[[], object]
ROT = "SIGKILL and rot"
_ROTTEN = 40  # places of the cache's file that rot at a time


class World(NamedTuple):
    """All that can fail."""

    stores: Stores
    mounted: Mounted
    disk: SmallDisk | None
    cache: Path
    chance: random.Random
    struck: tuple[Replica, ...] = ()  # where store faults strike; none: it is drawn each time

    def replicas(self) -> list[Replica]:
        """One of them, or all of them."""
        if self.struck:
            return list(self.struck)
        some = self.stores.replicas
        return list(some) if self.chance.random() < 0.3 else [self.chance.choice(some)]


class Kind(NamedTuple):
    """A fault by its name."""

    strike: Callable[[World], Undo | None]
    needs: Callable[[World], bool] = lambda world: True


SPOILING = {
    "delay": Fault("delay", seconds=0.02),
    "loss": Fault("loss", seconds=0.2),
    "trickle": Fault("trickle", after=2_000, seconds=1.0),  # a byte a second
    "cut": Fault("cut", after=40_000),  # half an answer
    "reset": Fault("reset", after=10_000),
    "half-close": Fault("half-close", after=3_000),
    "silence": Fault("silence", after=5_000),
    "garbage": Fault("garbage", data=b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "corruption": Fault("corrupt", after=20_000),
}


def _spoil(fault: Fault) -> Kind:
    def strike(world: World) -> Undo:
        struck = world.replicas()
        for replica in struck:
            replica.spoil(fault)
        return lambda: _each(struck, Replica.heal)

    return Kind(strike)


def _each(replicas: list[Replica], work: Callable[[Replica], None]) -> None:
    for replica in replicas:
        work(replica)


def _lie(world: World) -> Undo:
    struck = world.replicas()
    for replica in struck:
        replica.lie(world.stores.liar)
    return lambda: _each(struck, Replica.heal)


def _restart(world: World) -> Undo:
    struck = world.replicas()
    for replica in struck:
        replica.server.stop()
    return lambda: _each(struck, Replica.restart)


def _fill_disk(world: World) -> Undo:
    assert world.disk is not None
    world.disk.fill()
    return world.disk.empty


def _kill(world: World) -> None:
    world.mounted.kill()


def _kill_and_rot(world: World) -> None:
    """What the disk holds changes while nobody has it mapped: in memory a mount may trust what it has checked."""
    world.mounted.kill(lambda: rot(world.cache / "data.mdb", world.chance))


def rot(path: Path, chance: random.Random) -> None:
    """Flip bits of a file here and there, where it exists: on a full disk there may be none for a while."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        for _ in range(_ROTTEN if size else 0):
            at = chance.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ (1 << chance.randrange(8))]))


def _swap(world: World) -> None:
    world.mounted.swap()


def _upgrade(world: World) -> None:
    world.mounted.upgrade()


def _kill_in_takeover(world: World) -> None:
    world.mounted.kill_in_takeover(world.chance.uniform(0, 0.4))


FAULTS: dict[str, Kind] = {
    **{name: _spoil(fault) for name, fault in SPOILING.items()},
    "wrong answer": Kind(_lie),
    "store restart": Kind(_restart),
    "full disk": Kind(_fill_disk, lambda world: world.disk is not None),
    "SIGKILL": Kind(_kill),
    ROT: Kind(_kill_and_rot),
    "live swap": Kind(_swap),
    "takeover": Kind(_upgrade, lambda world: world.mounted.supervised),
    "SIGKILL in a takeover": Kind(_kill_in_takeover, lambda world: world.mounted.supervised),
}
