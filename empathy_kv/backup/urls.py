"""URLs of targets: which one a path or a URL names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from empathy_kv.backup.target import Target
from empathy_kv.errors import ArgumentError
from empathy_kv.paths import destination
from empathy_kv.urls import directory, names_store

_SERVICES: Final = ("s3", "az", "gs")


def opened(target: str | os.PathLike[str], timeout: float) -> Target:
    """Return the target that a path or a URL names: `DIR`, `file:DIR`, `s3://`, `az://` or `gs://BUCKET/PREFIX`.

    `ArgumentError` if it is none of them, and if what it needs is not installed. It says nothing of a service yet.
    """
    path = place(target)
    if path is not None:
        from empathy_kv.backup.directory import Directory

        return Directory(path)
    scheme, bucket, prefix = _bucket(str(target))
    try:
        from empathy_kv.backup.service import Service
    except ImportError as error:
        raise ArgumentError(
            f"target must be a directory: obstore, which {scheme}:// needs, is not installed here; "
            "pip install obstore brings it, as the extra backup does",
            argument="target",
        ) from error
    return Service(scheme, bucket, prefix, timeout)


def place(target: str | os.PathLike[str]) -> Path | None:
    """Return the directory of this machine that a target names, None if it names a service.

    `ArgumentError` if it is neither.
    """
    scheme = _scheme(target) if isinstance(target, str) else None
    if scheme is None:
        return destination(target, "target")
    if scheme == "file":
        return directory(str(target))
    if scheme not in _SERVICES:
        raise _wrong()
    return None


def _scheme(target: str) -> str | None:
    """Return the scheme of a URL, also of a mistyped one, and None of a path; that of a drive (`C:`) has one letter.

    `s3:/bucket` would be taken for a directory of this machine, and nobody would find the backups in it.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(?=/)|(file|s3|az|gs):", target, re.IGNORECASE)
    if match:
        return (match[1] or match[2]).lower()
    return target.partition(":")[0].lower() if names_store(target) else None


def _wrong() -> ArgumentError:
    # Not the target itself: it may hold a password.
    return ArgumentError(
        "target must be a directory, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX; endpoint and "
        "credentials stand in the environment",
        argument="target",
    )


def _bucket(target: str) -> tuple[str, str, str]:
    """Return the scheme, the bucket or container, and the prefix that the URL of a service names."""
    scheme, _, rest = target.partition("://")
    bucket, _, prefix = rest.partition("/")
    names = [name for name in prefix.split("/") if name]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket) or any(
        name in (".", "..") or not name.isprintable() or set(name) & set("?#\\@*") for name in names
    ):
        raise _wrong()
    return scheme.lower(), bucket, "/".join(names)
