"""The first line of a script: which programs the kernel, and then perhaps ``env``, start for it.  Stateless."""

from __future__ import annotations

HEAD = 256  # bytes that the kernel looks at
_PATH = (b"/usr/local/sbin", b"/usr/local/bin", b"/usr/sbin", b"/usr/bin", b"/sbin", b"/bin")


def programs(head: bytes) -> list[list[bytes]]:
    """The programs that a file beginning with `head` starts, each as the paths that it may have.

    Empty for what is no script.
    """
    if not head.startswith(b"#!"):
        return []
    line, newline, _ = head[2:HEAD].partition(b"\n")
    words = line.split()
    if not newline and len(head) >= HEAD and len(words) == 1:
        return []  # cut off within the name
    if not words:
        return []
    found = [[words[0]]]
    if words[0].endswith(b"/env") and (name := _behind_env(words[1:])):
        found.append([name] if b"/" in name else [b"%s/%s" % (place, name) for place in _PATH])
    return found


def _behind_env(words: list[bytes]) -> bytes | None:
    """The program that ``env`` starts: the first word that is neither an option nor an assignment."""
    return next((word for word in words if not word.startswith(b"-") and b"=" not in word), None)
