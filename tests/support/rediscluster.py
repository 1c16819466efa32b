"""A real Redis Cluster of a test's own: masters with a replica each, on loopback, ended by their process ids."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.redisserver import RedisServer, free_port

SLOTS = 16384
NODE_TIMEOUT = 1500  # milliseconds after which a node that says nothing is replaced by its replica
PATIENCE = 60.0  # seconds that the nodes have to agree on something


class ClusterNode(RedisServer):
    """One server of it.  `certificate`: a directory with cert.pem and key.pem, for TLS beside the plain port."""

    def __init__(self, directory: Path, password: str | None, certificate: Path | None = None) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        options += ["--cluster-port", str(free_port()), "--cluster-node-timeout", str(NODE_TIMEOUT)]
        options += ["--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"]
        options += ["--masterauth", password] if password is not None else []
        self.tls_port = None if certificate is None else free_port()
        if certificate is not None:
            key, cert = str(certificate / "key.pem"), str(certificate / "cert.pem")
            options += ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
            options += ["--tls-cluster", "yes", "--tls-replication", "yes", "--tls-ca-cert-file", cert]
            options += ["--tls-cert-file", cert, "--tls-key-file", key]
        super().__init__(directory, password=password, args=options)

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"{self.host}:{self.peer_port}"

    @property
    def peer_port(self) -> int:
        """Where the others reach it."""
        return self.tls_port or self.port

    def ask(self, *words: bytes | str | int) -> Any:
        """The answer to one command."""
        with self.client() as client:
            return client.command(*words)

    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID").decode())

    def role(self) -> str:
        """``master`` or ``slave``."""
        return str(self.ask("ROLE")[0].decode())


class RedisCluster:
    """`masters` servers with an equal share of the slots, and a replica for each: ``nodes[masters + n]``.

    With a `certificate` clients are to use TLS; see `ClusterNode`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        masters: int = 3,
        password: str | None = None,
        certificate: Path | None = None,
    ) -> None:
        self.scheme = "redis-cluster" if certificate is None else "rediss-cluster"
        self.nodes: list[ClusterNode] = []
        self.password = password
        try:
            for number in range(2 * masters):
                self.nodes.append(ClusterNode(directory / f"node-{number}", password, certificate))
            self._join(masters)
        except BaseException:
            self.stop()
            raise

    def _join(self, masters: int) -> None:
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, node in enumerate(self.nodes[:masters]):
            begin, end = number * SLOTS // masters, (number + 1) * SLOTS // masters - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", begin, end)
        for node in self.nodes[1:]:
            bus = re.search(rb"cluster-port\n(\d+)", b"\n".join(node.ask("CONFIG", "GET", "cluster-port")))
            assert bus is not None
            first.ask("CLUSTER", "MEET", node.host, node.peer_port, bus[1])
        everybody = len(self.nodes)
        self.wait(lambda node: len(node.ask("CLUSTER", "NODES").splitlines()) == everybody, "everybody met")
        for master, replica in zip(self.nodes[:masters], self.nodes[masters:], strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.id())
        self.wait(lambda node: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"), "the cluster is up")
        self.wait(
            lambda node: b"master_link_status:up" in node.ask("INFO", "replication"),
            "the replicas follow",
            self.nodes[masters:],
        )

    @property
    def url(self) -> str:
        """The URL with every node."""
        return self.url_of(self.nodes)

    def url_of(self, nodes: Iterable[ClusterNode]) -> str:
        """The URL with some of the nodes."""
        user = "" if self.password is None else f":{self.password}@"
        return f"{self.scheme}://{user}{','.join(node.address for node in nodes)}"

    def wait(
        self, condition: Callable[[ClusterNode], bool], what: str, nodes: Sequence[ClusterNode] | None = None
    ) -> None:
        """Until `condition` holds for every node that runs, or for each of `nodes`."""
        deadline = time.monotonic() + PATIENCE
        for node in nodes or [node for node in self.nodes if node.process.poll() is None]:
            while not self._holds(condition, node):
                assert time.monotonic() < deadline, f"the cluster did not get there: {what}"
                time.sleep(0.02)

    def _holds(self, condition: Callable[[ClusterNode], bool], node: ClusterNode) -> bool:
        with contextlib.suppress(OSError):
            return condition(node)
        return False

    def holder(self, slot: int) -> ClusterNode:
        """The master of a slot, by what the first node that runs knows."""
        alive = next(node for node in self.nodes if node.process.poll() is None)
        for first, last, (_, port, *_), *_ in alive.ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(slot)

    def replica(self, master: ClusterNode) -> ClusterNode:
        """A replica of `master`."""
        (_, port, _), *_ = master.ask("ROLE")[2]
        return next(node for node in self.nodes if int(port) in (node.port, node.tls_port))

    def await_replicas(self) -> None:
        """Until every replica has what was written so far."""
        masters = [node for node in self.nodes if node.process.poll() is None and node.role() == "master"]
        self.wait(lambda node: node.ask("WAIT", 1, 1000) >= 1, "the replicas have everything", masters)

    def begin_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """From now on `source` answers ASK for keys of the slot that it does not have."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id())
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id())

    def migrate(self, keys: Iterable[bytes], source: ClusterNode, target: ClusterNode) -> None:
        auth: list[bytes | str] = [] if self.password is None else ["AUTH", self.password]
        source.ask("MIGRATE", target.host, target.peer_port, "", 0, 5000, *auth, "KEYS", *keys)

    def end_move(self, slot: int, target: ClusterNode) -> None:
        """Tell everybody who has the slot now; the target first, as it has to be."""
        masters = [node for node in self.nodes if node.process.poll() is None and node.role() == "master"]
        for node in sorted(masters, key=lambda node: node is not target):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id())

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
