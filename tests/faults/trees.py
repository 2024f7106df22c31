"""Directories as values: what is in them, to be put back, and to be compared."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

Tree: TypeAlias = Mapping[str, bytes | None]
"""The content of each file by its path below a directory; None for a directory."""


def read_tree(root: Path) -> dict[str, bytes | None]:
    """Return what is below a directory of plain files."""
    found: dict[str, bytes | None] = {}
    for directory, directories, names in os.walk(root):
        below = directory[len(str(root)) + 1 :]
        found.update((f"{below}/{name}".lstrip("/"), None) for name in directories)
        for name in names:
            with open(f"{directory}/{name}", "rb", buffering=0) as file:
                found[f"{below}/{name}".lstrip("/")] = file.readall()
    return found


def write_tree(root: Path, tree: Tree) -> None:
    """Make a directory hold a tree and nothing else. What is there already is left as it is."""
    root.mkdir(mode=0o700, exist_ok=True)
    there = read_tree(root)
    for name in sorted(there.keys() - tree.keys(), reverse=True):
        if there[name] is None:
            (root / name).rmdir()
        else:
            (root / name).unlink()
    for name in sorted(tree):
        content = tree[name]
        if name in there and there[name] == content:
            continue
        if content is None:
            (root / name).mkdir(mode=0o700)
        else:
            (root / name).write_bytes(content)
            (root / name).chmod(0o600)


def files(tree: Tree) -> dict[str, bytes]:
    """Return the files of a tree."""
    return {name: content for name, content in tree.items() if content is not None}


def fingerprint(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a change to a directory, or to what is in it, would show in. Nothing is followed or opened
    that is not a plain file."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))] if root.is_dir() and not root.is_symlink() else [root]:
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ino, content)
    return found
