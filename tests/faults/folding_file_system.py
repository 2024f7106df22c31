"""A file system whose names are as those of macOS or Windows: a FUSE server over a real directory.

It speaks the kernel's protocol itself (include/uapi/linux/fuse.h, version 7.31), because libfuse is a library of the
system that few machines have, and hides a file that is unlinked while it is open under another name. Only names are
simulated: case is kept and does not count; on "mac" composed and decomposed names are one as well; on "windows" the
reserved names and characters are refused, and dots and spaces at the end are dropped.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pytest
from faults.apart import end_with_parent, mount

Kind: TypeAlias = Literal["mac", "windows"]

DEVICE: Final = Path("/dev/fuse")
RESERVED: Final = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{name}{digit}" for name in ("com", "lpt") for digit in "123456789¹²³"]
)

_REQUEST: Final = struct.Struct("<IIQQIIIHH")
_REPLY: Final = struct.Struct("<IiQ")
_ATTRIBUTES: Final = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY: Final = struct.Struct("<QQQQII")
_TRANSFER: Final = struct.Struct("<QQIIQII")
_LARGEST: Final = 128 * 1024


def allowed_on_windows(name: str) -> bool:
    """Return whether Windows keeps a file under exactly this name."""
    if name.split(".")[0].rstrip(" ").lower() in RESERVED:
        return False
    return not name.endswith((".", " ")) and not any(c in '<>:"/\\|?*' or c < " " for c in name)


@functools.lru_cache(maxsize=65536)
def folded(name: str) -> str:
    """Return what macOS compares, which folds more than Windows does: names that differ here differ on both."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def mount_folding(kind: Kind, behind: Path, place: Path) -> None:
    """Mount the file system for this process, which has private mounts. It is gone when the process ends."""
    if not DEVICE.exists():
        pytest.skip("there is no /dev/fuse here")
    behind.mkdir()
    place.mkdir()
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        mount("fuse", place, f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}")
    except OSError as error:
        pytest.skip(f"FUSE cannot be used here: {error}")
    if os.fork() == 0:
        end_with_parent()
        try:
            Server(kind, behind, device).serve()
        finally:
            os._exit(0)
    os.close(device)


class Node:
    """A file or directory that the kernel knows by number. Once it was unlinked, only its open files lead to it."""

    def __init__(self, parent: Node | None, name: str) -> None:
        self.parent: Node | None = parent
        self.name = name
        self.open: list[int] = []

    def path(self) -> str:
        if self.parent is None:
            if self.name:
                return self.name
            raise OSError(errno.ESTALE, "unlinked")
        return os.path.join(self.parent.path(), self.name)

    def status(self) -> os.stat_result:
        return os.fstat(self.open[-1]) if self.open and not self.linked() else os.lstat(self.path())

    def linked(self) -> bool:
        return self.parent is not None or bool(self.name)

    def unlink(self) -> None:
        self.parent, self.name = None, ""


class Server:
    """Answers the kernel's requests, one at a time."""

    def __init__(self, kind: Kind, behind: Path, device: int) -> None:
        self._windows = kind == "windows"
        self._device = device
        self._nodes: dict[int, Node] = {1: Node(None, str(behind))}
        self._numbers: dict[tuple[Node, str], int] = {}
        self._lists: dict[int, list[tuple[str, os.stat_result]]] = {}
        self._last = 1
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: self._getattr,
            4: self._setattr,
            5: lambda node, _: os.fsencode(os.readlink(self._nodes[node].path())),
            6: self._symlink,
            9: self._mkdir,
            10: self._remove(os.unlink),
            11: self._remove(os.rmdir),
            12: lambda node, data: self._rename(node, data, 8),
            13: self._link,
            14: self._open,
            15: self._read,
            16: self._write,
            17: lambda node, data: struct.pack(
                "<5Q4I24x", 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096, 0
            ),
            18: self._release,
            20: lambda node, data: os.fsync(struct.unpack_from("<Q", data)[0]) or b"",  # type: ignore[func-returns-value]
            25: lambda node, data: b"",
            26: self._init,
            27: self._opendir,
            28: self._readdir,
            29: self._releasedir,
            30: lambda node, data: b"",
            35: self._create,
            45: lambda node, data: self._rename(node, data, 16),
        }

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, _LARGEST + 4096)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):  # The request was interrupted before it was read.
                    continue
                return
            _, code, unique, node, *_ = _REQUEST.unpack_from(request)
            if code in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET have no reply.
                continue
            try:
                answer = self._answers.get(code)
                if answer is None:
                    raise OSError(errno.ENOSYS, "not served")
                failed, data = 0, answer(node, request[_REQUEST.size :])
            except OSError as error:
                failed, data = error.errno or errno.EIO, b""
            os.write(self._device, _REPLY.pack(_REPLY.size + len(data), -failed, unique) + data)

    # Names

    def _fold(self, name: str) -> str:
        return name.casefold() if self._windows else folded(name)

    def _find(self, node: int, data: bytes) -> tuple[Node, str]:
        """Return the directory, and the name under which it has what is meant, or under which it would get it."""
        directory, name = self._nodes[node], os.fsdecode(data.split(b"\0", 1)[0])
        if self._windows:
            name = name.rstrip(". ")
            if not name or not allowed_on_windows(name):
                raise OSError(errno.EINVAL, "no name on Windows")
        wanted = self._fold(name)
        for entry in os.listdir(directory.path()):
            if self._fold(entry) == wanted:
                return directory, entry
        return directory, name

    def _number(self, directory: Node, name: str) -> int:
        number = self._numbers.get((directory, name))
        if number is None:
            self._last = number = self._last + 1
            self._numbers[directory, name] = number
            self._nodes[number] = Node(directory, name)
        return number

    # Replies

    @staticmethod
    def _attributes(status: os.stat_result) -> bytes:
        times = [divmod(ns, 10**9) for ns in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
        return _ATTRIBUTES.pack(
            *(status.st_ino, status.st_size, status.st_blocks),
            *(seconds for seconds, _ in times),
            *(rest for _, rest in times),
            *(status.st_mode, status.st_nlink, status.st_uid, status.st_gid, 0, 4096, 0),
        )

    def _entry(self, directory: Node, name: str) -> bytes:
        status = os.lstat(os.path.join(directory.path(), name))
        # Valid for no time: the kernel has to ask for every name again, as it knows nothing of folding.
        return _ENTRY.pack(self._number(directory, name), 0, 0, 0, 0, 0) + self._attributes(status)

    # Requests

    def _init(self, node: int, data: bytes) -> bytes:
        big_writes = 1 << 5
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, _LARGEST, big_writes, 16, 12, _LARGEST, 1, 0, 0, 0)

    def _lookup(self, node: int, data: bytes) -> bytes:
        return self._entry(*self._find(node, data))

    def _getattr(self, node: int, data: bytes) -> bytes:
        return bytes(16) + self._attributes(self._nodes[node].status())

    def _setattr(self, node: int, data: bytes) -> bytes:
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode = struct.unpack_from("<II6Q4I", data)
        target = self._nodes[node]
        file: int | str = target.path() if target.linked() else target.open[-1]
        if valid & 1:
            os.chmod(file, stat.S_IMODE(mode))
        if valid & 8:
            os.truncate(file, size)
        if valid & (16 | 32):
            now = valid & (128 | 256)
            os.utime(file) if now else os.utime(file, ns=(atime * 10**9 + atime_ns, mtime * 10**9 + mtime_ns))
        return bytes(16) + self._attributes(target.status())

    def _mkdir(self, node: int, data: bytes) -> bytes:
        directory, name = self._find(node, data[8:])
        os.mkdir(os.path.join(directory.path(), name), struct.unpack_from("<I", data)[0])
        return self._entry(directory, name)

    def _symlink(self, node: int, data: bytes) -> bytes:
        directory, name = self._find(node, data)
        os.symlink(data.split(b"\0")[1], os.fsencode(os.path.join(directory.path(), name)))
        return self._entry(directory, name)

    def _link(self, node: int, data: bytes) -> bytes:
        directory, name = self._find(node, data[8:])
        os.link(self._nodes[struct.unpack_from("<Q", data)[0]].path(), os.path.join(directory.path(), name))
        return self._entry(directory, name)

    def _remove(self, call: Callable[[str], None]) -> Callable[[int, bytes], bytes]:
        def remove(node: int, data: bytes) -> bytes:
            directory, name = self._find(node, data)
            call(os.path.join(directory.path(), name))
            self._forget(directory, name)
            return b""

        return remove

    def _forget(self, directory: Node, name: str) -> None:
        number = self._numbers.pop((directory, name), None)
        if number is not None:
            self._nodes[number].unlink()

    def _rename(self, node: int, data: bytes, size: int) -> bytes:
        old, new = data[size:].split(b"\0")[:2]
        source, old_name = self._find(node, old)
        target, new_name = self._find(struct.unpack_from("<Q", data)[0], new)
        flags = struct.unpack_from("<I", data, 8)[0] if size == 16 else 0
        if flags:
            raise OSError(errno.EINVAL, "neither exchanged nor kept")
        if (source, old_name) == (target, new_name):  # Only the case changes.
            new_name = os.fsdecode(new)
        os.rename(os.path.join(source.path(), old_name), os.path.join(target.path(), new_name))
        if (source, old_name) != (target, new_name):
            self._forget(target, new_name)
            number = self._numbers.pop((source, old_name), None)
            if number is not None:
                self._numbers[target, new_name] = number
                self._nodes[number].parent, self._nodes[number].name = target, new_name
        return b""

    def _opened(self, node: int, descriptor: int) -> bytes:
        self._nodes[node].open.append(descriptor)
        return struct.pack("<QIi", descriptor, 0, 0)

    def _open(self, node: int, data: bytes) -> bytes:
        # Each write says where: with O_APPEND pwrite would not listen.
        flags = struct.unpack_from("<I", data)[0] & ~(os.O_APPEND | os.O_CREAT | os.O_EXCL)
        return self._opened(node, os.open(self._nodes[node].path(), flags))

    def _create(self, node: int, data: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", data)
        directory, name = self._find(node, data[16:])
        path = os.path.join(directory.path(), name)
        descriptor = os.open(path, flags & ~os.O_APPEND | os.O_CREAT, stat.S_IMODE(mode))
        return self._entry(directory, name) + self._opened(self._number(directory, name), descriptor)

    def _read(self, node: int, data: bytes) -> bytes:
        descriptor, offset, size, *_ = _TRANSFER.unpack_from(data)
        return os.pread(descriptor, size, offset)

    def _write(self, node: int, data: bytes) -> bytes:
        descriptor, offset, size, *_ = _TRANSFER.unpack_from(data)
        written = os.pwrite(descriptor, data[_TRANSFER.size : _TRANSFER.size + size], offset)
        return struct.pack("<II", written, 0)

    def _release(self, node: int, data: bytes) -> bytes:
        descriptor = struct.unpack_from("<Q", data)[0]
        self._nodes[node].open.remove(descriptor)
        os.close(descriptor)
        return b""

    def _opendir(self, node: int, data: bytes) -> bytes:
        path = self._nodes[node].path()
        self._last += 1
        self._lists[self._last] = [(name, os.lstat(os.path.join(path, name))) for name in sorted(os.listdir(path))]
        return struct.pack("<QIi", self._last, 0, 0)

    def _readdir(self, node: int, data: bytes) -> bytes:
        number, offset, size, *_ = _TRANSFER.unpack_from(data)
        result = b""
        for place, (name, status) in enumerate(self._lists[number][offset:], offset + 1):
            encoded = os.fsencode(name)
            entry = (
                struct.pack("<QQII", status.st_ino, place, len(encoded), stat.S_IFMT(status.st_mode) >> 12) + encoded
            )
            entry += bytes(-len(entry) % 8)
            if len(result) + len(entry) > size:
                break
            result += entry
        return result

    def _releasedir(self, node: int, data: bytes) -> bytes:
        del self._lists[struct.unpack_from("<Q", data)[0]]
        return b""
