"""Store URLs: what to connect to, with which password, and how to show it without one.

`parse_store_url` is the only place that reads such a URL.  Its messages, and everything that
`StoreUrl` prints, leave the user part out; ``docs/stores.md`` is the user's table of the schemes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from zerofs.errors import StoreConfigError

CLUSTER_SCHEMES = frozenset({"redis-cluster", "rediss-cluster"})
DEFAULT_PORTS = {
    "ardb": 16379,
    "redis": 6379,
    "rediss": 6379,
    "redis-cluster": 6379,
    "rediss-cluster": 6379,
    "zdb": 9900,
    "http": 80,
    "https": 443,
}
RESP_SCHEMES = frozenset({"ardb", "redis", "rediss", "zdb", "unix"})
WEB_SCHEMES = frozenset({"http", "https"})
UNSUPPORTED_SCHEMES = frozenset({"s3", "s3s", "server"})

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_HOST = re.compile(r"[^\s/?#@\[\]:]+\Z")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[0-9A-Za-z._-]+)?\Z")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_SAFE_IN_PATH = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~/!$'()*+,;=:")
_MAX_UNIX_PATH = 107  # bytes, sun_path without its NUL
_MAX_SEEDS = 64

Address = tuple[str, int]  # host, an IPv6 one without brackets, and port


class StoreUrl(NamedTuple):
    """A destination.  Equal URLs, passwords included, share their connections."""

    scheme: str
    host: str = ""  # without brackets; empty for `dir` and for a unix socket
    port: int = 0
    path: bytes = b""  # of the socket, the directory, or the base on a web server
    database: int = 0  # of a Redis; 0 is where a connection starts
    namespace: bytes = b""  # of a 0-db; empty for its default one
    auth: tuple[bytes, ...] = ()  # arguments of AUTH; user and password of HTTP
    namespace_password: bytes = b""
    others: tuple[Address, ...] = ()  # nodes of a cluster that are asked where `host` does not answer

    def __repr__(self) -> str:
        return f"<StoreUrl {self.display}>"

    @property
    def display(self) -> str:
        """The URL for messages and logs: canonical, no user part, no password."""
        if self.scheme == "dir":
            return f"dir://{quote(self.path)}"
        if not self.host:
            query = f"?namespace={quote(self.namespace)}" if self.namespace else ""
            query = f"?db={self.database}" if self.database else query
            return f"{self.scheme}://{quote(self.path)}{query}"
        tail = quote(self.path)
        if self.database:
            tail = f"/{self.database}"
        if self.namespace:
            tail = f"/{quote(self.namespace)}"
        return f"{self.scheme}://{','.join(map(_shown, self.seeds))}{tail}"

    @property
    def seeds(self) -> tuple[Address, ...]:
        """Every host that the URL names, with its port."""
        return ((self.host, self.port), *self.others)

    def node(self, address: Address) -> StoreUrl:
        """One node of a cluster as a store of its own, with the cluster's password, and over TLS where it is."""
        return StoreUrl(self.scheme.removesuffix("-cluster"), *address, auth=self.auth)

    @property
    def published(self) -> str:
        """The URL as it may stand in a flist for everybody: `display`, which parses again."""
        return self.display

    @property
    def is_resp(self) -> bool:
        """Whether the store speaks RESP2."""
        return self.scheme in RESP_SCHEMES

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Whatever must not be shown, should a server echo it."""
        return tuple(secret for secret in (*self.auth, self.namespace_password) if secret)


def parse_store_url(text: str) -> StoreUrl:
    """Read a store URL.  Raises StoreConfigError, whose message never shows the user part."""
    if not text:
        raise StoreConfigError("the URL of a store is empty")
    shown = redact(text)
    if _CONTROL.search(text):
        raise StoreConfigError(
            f"store URL {shown}: blanks and control characters are written as %20 and so on"
        )
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or not _SCHEME.match(scheme):
        raise StoreConfigError(f"{shown} is no store URL: it has no scheme such as redis://")
    if scheme in UNSUPPORTED_SCHEMES:
        raise StoreConfigError(f"store URL {shown}: {scheme}:// stores are not supported")
    if scheme != "dir" and scheme not in DEFAULT_PORTS and scheme != "unix":
        raise StoreConfigError(f"store URL {shown}: unknown scheme {scheme}://")
    try:
        return _parse(scheme, rest)
    except ValueError as fault:
        raise StoreConfigError(f"store URL {shown}: {fault}") from None


def redact(text: str) -> str:
    """`text` as a message may show it: no user part, no options, one line, not endless.

    Everything up to the last ``@`` goes, because the password of a malformed URL may hold slashes.
    """
    shown = re.sub(r"://.*@", "://***@", text, flags=re.DOTALL)
    shown = re.sub(r"\?.*", "?***", shown, flags=re.DOTALL)
    shown = _CONTROL.sub("?", shown)
    return shown if len(shown) <= 200 else shown[:200] + "…"


def _parse(scheme: str, rest: str) -> StoreUrl:
    """The URL after its scheme.  A ValueError's message must not quote any part of it."""
    if "#" in rest:
        raise ValueError("a # is written as %23")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    path = slash + path
    userinfo, at, hostport = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    options = _options(query, _OPTIONS.get(scheme, frozenset()) if not hostport else frozenset())
    credentials = (_unquote(user), _unquote(password) if colon else None) if at else (b"", None)
    if scheme == "dir":
        return _directory(hostport, at, path)
    if scheme in WEB_SCHEMES:
        host, port = _host_port(hostport, DEFAULT_PORTS[scheme])
        auth = (credentials[0], credentials[1] or b"") if at else ()
        return StoreUrl(scheme, host, port, _unquote(path).rstrip(b"/"), auth=auth)
    if scheme == "unix" or (scheme == "zdb" and not hostport):
        return _unix_socket(scheme, hostport, path, credentials, options)
    if scheme in CLUSTER_SCHEMES:
        return _cluster(scheme, hostport, path, _redis_auth(*credentials))
    host, port = _host_port(hostport, DEFAULT_PORTS[scheme])
    if scheme == "zdb":
        return _zdb(StoreUrl(scheme, host, port), _namespace(path[1:]), credentials)
    return StoreUrl(scheme, host, port, database=_database(path[1:]), auth=_redis_auth(*credentials))


_OPTIONS = {"unix": frozenset({"db"}), "zdb": frozenset({"namespace"})}  # of a socket, whose path is taken


def _directory(host: str, at: str, path: str) -> StoreUrl:
    if host not in ("", "localhost") or at:
        raise ValueError("a directory is written dir:///path, with three slashes")
    directory = _path(path)
    return StoreUrl("dir", path=directory.rstrip(b"/") or b"/")


def _unix_socket(
    scheme: str, host: str, path: str, credentials: tuple[bytes, bytes | None], options: dict[str, str]
) -> StoreUrl:
    if host:
        raise ValueError("a socket is written unix:///path, with three slashes")
    socket_path = _path(path)
    if len(socket_path) > _MAX_UNIX_PATH:
        raise ValueError(f"the path of a unix socket has at most {_MAX_UNIX_PATH} bytes")
    if scheme == "zdb":
        return _zdb(StoreUrl(scheme, path=socket_path), _namespace(options.get("namespace", "")), credentials)
    database = _database(options.get("db", ""))
    return StoreUrl(scheme, path=socket_path, database=database, auth=_redis_auth(*credentials))


def _cluster(scheme: str, hosts: str, path: str, auth: tuple[bytes, ...]) -> StoreUrl:
    if _database(path[1:]):
        raise ValueError("a Redis Cluster has no databases")
    seeds = [_host_port(each, DEFAULT_PORTS[scheme]) for each in hosts.split(",")]
    if len(seeds) > _MAX_SEEDS:
        raise ValueError(f"a cluster is named by at most {_MAX_SEEDS} of its nodes")
    (host, port), *others = dict.fromkeys(seeds)
    return StoreUrl(scheme, host, port, auth=auth, others=tuple(others))


def _redis_auth(user: bytes, password: bytes | None) -> tuple[bytes, ...]:
    """The user part alone is the password, as the ancestors wrote it."""
    if password is None:
        return (user,) if user else ()
    if user:
        return (user, password)
    return (password,) if password else ()


def _zdb(base: StoreUrl, namespace: bytes, credentials: tuple[bytes, bytes | None]) -> StoreUrl:
    """The user part is the admin password, the password belongs to the namespace."""
    admin, password = credentials
    namespace = b"" if namespace == b"default" else namespace
    if password and not namespace:
        raise ValueError(
            "a 0-db password after the colon belongs to a namespace, and none is named; "
            "the admin password stands alone before the @"
        )
    return StoreUrl(
        base.scheme,
        base.host,
        base.port,
        base.path,
        namespace=namespace,
        auth=(admin,) if admin else (),
        namespace_password=password or b"",
    )


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host.replace('%', '%25')}]:{port}" if ":" in host else f"{host}:{port}"


def _host_port(text: str, default: int) -> Address:
    if text.startswith("["):
        address, bracket, tail = text[1:].partition("]")
        address = address.replace("%25", "%")
        if not bracket or ":" not in address or not _IPV6.match(address):
            raise ValueError("what stands in the brackets is no IPv6 address")
        if tail and not tail.startswith(":"):
            raise ValueError("only a port may follow the brackets")
        return address, _port(tail[1:], default) if tail else default
    host, colon, port = text.partition(":")
    if ":" in port:
        raise ValueError("an IPv6 address stands in brackets, as in redis://[::1]:6379")
    if not host:
        raise ValueError("it names no host")
    if not _HOST.match(host) or "%" in host:
        raise ValueError("the host is not a name or an address")
    return host.lower(), _port(port, default) if colon else default


def _port(text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError("the port is a number from 1 to 65535")
    return int(text)


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError("what follows the host is the number of a database")
    return int(text)


def _namespace(text: str) -> bytes:
    namespace = _unquote(text.removesuffix("/"))
    if b"/" in namespace:
        raise ValueError("what follows the host is one namespace")
    if len(namespace) > 128:
        raise ValueError("a namespace has at most 128 bytes")
    return namespace


def _path(text: str) -> bytes:
    path = _unquote(text)
    if not path.startswith(b"/") or b"\0" in path:
        raise ValueError("the path is absolute")
    return path


def _options(query: str, known: frozenset[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in known or name in options:
            raise ValueError("it has options (after the ?) that this scheme does not know")
        options[name] = value
    return options


def _unquote(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]), raw)


def quote(raw: bytes) -> str:
    """The bytes of a path as they are written in a URL; the opposite of what a URL's path is read as."""
    return "".join(chr(byte) if byte in _SAFE_IN_PATH else f"%{byte:02X}" for byte in raw)
