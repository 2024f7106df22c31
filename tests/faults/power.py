"""Real power cuts: a store on a file system of its own, writers that work on it, and a disk that takes nothing more.

`python power.py FILE_SYSTEM DURABILITY CUTS SEED DIRECTORY` prints what was found, a JSON object a cut. It needs root,
and an empty directory to mount in. The durability "none" is that of a store whose syncs do nothing. With "kill" in the
place of the file system the power stays and only the writers are killed, which anybody may do.

The disk is a loop device on a file in memory. A cut is the ioctl that the file systems have for their own tests
(`XFS_IOC_GOINGDOWN`, which ext4 has too), without a flush of the journal: from then on nothing of what is cached
reaches the disk, and every call fails. Unmounting and mounting again, which replays the file system's journal, is the
start after it. What the kernel had sent to the disk by then is there. Before the cut things happen that send a part of
the rest: a neighbour syncs a file, or somebody a file of the store, a page of it, a directory, the whole file system.

Nothing is left behind, however this program ends: it mounts in a name space of its own, the loop device frees itself
when it is not in use any more, and the file in memory has no name.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import random
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal

from machine import BOOT, package

from empathy_kv.kv.files import FilesKV
from empathy_kv.kv.operations import Delete, Get, HGetAll, HIncrBy, IncrBy, Operation, Set, ZAppend, ZRange, ZTrim

FILE_SYSTEMS: Final[dict[str, tuple[list[str], str]]] = {
    "ext4": (["mkfs.ext4", "-q"], "defaults"),
    # The contents of a file may come long after its size, and a rename does not wait for them.
    "ext4 data=writeback": (["mkfs.ext4", "-q"], "data=writeback,noauto_da_alloc"),
    "xfs": (["mkfs.xfs", "-q"], "defaults"),
}
"""How each is made, and its options of mount."""

UNABLE: Final = 77
"""The exit status where this cannot be done at all."""

SIZE: Final = 320 << 20
"""Bytes of the disk, of which only those take memory that were written. xfs does not come smaller than 300 MiB."""

LIBC: Final = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS: Final = 0x00020000  # CLONE_NEWNS
PRIVATE: Final = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
BIND: Final = 1 << 12  # MS_BIND
GOING_DOWN: Final = 2 << 30 | 4 << 16 | ord("X") << 8 | 125  # _IOR('X', 125, u32)
NO_LOG_FLUSH: Final = 2
LOOP_GET_FREE, LOOP_CONFIGURE, LOOP_AUTOCLEAR = 0x4C82, 0x4C0A, 4
PARENT_DEATH: Final = 1  # PR_SET_PDEATHSIG
WRITE_PAGES: Final = 2  # SYNC_FILE_RANGE_WRITE


def find_tool(name: str) -> str | None:
    """Return the path of a program: from PATH, from where administrators have theirs, or from beside this Python."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", beside]))


class Disk:
    """A file system on a disk of its own, whose power can be cut."""

    def __init__(self, file_system: str, mount: Path) -> None:
        self.path = mount
        self._make, self._options = FILE_SYSTEMS[file_system]
        self._kind = file_system.split()[0]
        self._device = ""

    def __enter__(self) -> Disk:
        memory = os.memfd_create("disk")
        os.ftruncate(memory, SIZE)
        self._loop = self._attached(memory)
        os.close(memory)
        program = find_tool(self._make[0])
        assert program is not None
        command(program, *self._make[1:], self._device)
        self._mount()
        return self

    def _attached(self, memory: int) -> int:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(20):
                self._device = f"/dev/loop{fcntl.ioctl(control, LOOP_GET_FREE)}"
                loop = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
                # struct loop_config: the file, the size of a block, struct loop_info64 with its flags, padding.
                config = struct.pack("=II52xI176x64x", memory, 0, LOOP_AUTOCLEAR)
                try:
                    fcntl.ioctl(loop, LOOP_CONFIGURE, config)
                except OSError:  # Another program was faster.
                    os.close(loop)
                    time.sleep(0.05)
                else:
                    return loop
        finally:
            os.close(control)
        raise RuntimeError("no loop device is free")

    def _mount(self) -> None:
        source, kind = self._device.encode(), self._kind.encode()
        options = b"" if self._options == "defaults" else self._options.encode()
        succeed(LIBC.mount(source, os.fsencode(self.path), kind, 0, options))

    def cut(self) -> None:
        """Cut the power."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, GOING_DOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """Bring the power back. Nobody may use the file system any more."""
        succeed(LIBC.umount2(os.fsencode(self.path), 0))
        self._mount()

    def __exit__(self, *_: object) -> None:
        LIBC.umount2(os.fsencode(self.path), 2)  # MNT_DETACH
        os.close(self._loop)


class Calm:
    """A directory where no power is cut."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self) -> None:
        """Let all be as it is."""

    def restart(self) -> None:
        """Let all be as it is."""


def succeed(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def command(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


# What the writers do. Number `count` of a writer is always the same batch, so that what a store holds can be foreseen.

WRITERS: Final = 4
"""Two processes of two threads. The threads of one write to different namespaces, and meet those of the other there."""
LATEST: Final = 20
"""Entries that a log keeps."""
ROOM: Final = 20_000
"""Batches of one writer between two cuts, at most."""


def namespace(writer: int) -> tuple[str, str]:
    return ("shared", f"n{writer % 2}")


def value(writer: int, count: int, name: str) -> bytes:
    """Return a value that takes a few bytes, or sometimes some pages."""
    return f"{name} of {writer}: {count} ".encode() * (400 if count % 13 == 0 else 1)


def batch(writer: int, count: int) -> tuple[Operation, ...]:
    """Return the operations of a batch. The reply of the first is its number among all of the namespace."""
    return (
        IncrBy("total"),
        Set(f"{writer}-a", value(writer, count, "a")),
        Set(f"{writer}-b", value(writer, count, "b")),
        Delete(f"{writer}-guest") if count % 3 else Set(f"{writer}-guest", b"%d" % count),
        HIncrBy(f"{writer}-sums", {"count": 1, "sum": count}),
        ZAppend(f"{writer}-log", [b"%d" % count]),
        ZTrim(f"{writer}-log", LATEST),
    )


def reading(writer: int) -> tuple[Operation, ...]:
    """Return the operations that read what a writer wrote."""
    names = (f"{writer}-a", f"{writer}-b", f"{writer}-guest")
    return (*map(Get, names), HGetAll(f"{writer}-sums"), ZRange(f"{writer}-log", 0, -1))


def foreseen(writer: int, count: int) -> list[Any]:
    """Return the replies to that after so many batches."""
    if count == 0:
        return [None, None, None, {}, []]
    return [
        value(writer, count, "a"),
        value(writer, count, "b"),
        None if count % 3 else b"%d" % count,
        {"count": b"%d" % count, "sum": b"%d" % (count * (count + 1) // 2)},
        [b"%d" % number for number in range(max(1, count - LATEST + 1), count + 1)],
    ]


class Tally:
    """What writers say of their work, in memory that outlives them: nothing is slower, and nothing is later."""

    def __init__(self) -> None:
        self._cells = memoryview(mmap.mmap(-1, 8 * (1 + WRITERS * (2 + ROOM)))).cast("Q")

    def begin(self, start: list[int]) -> None:
        """Begin anew, when every writer has so many batches in the store."""
        self.start = start
        self._cells[0] = 0
        for writer in range(WRITERS):
            self._cells[self._place(writer)] = self._cells[self._place(writer) + 1] = start[writer]

    def _place(self, writer: int) -> int:
        return 1 + writer * (2 + ROOM)

    @property
    def over(self) -> bool:
        """Whether the power is off, or about to be."""
        return self._cells[0] != 0

    def end(self) -> None:
        """Take down what was acknowledged, and say that it is over.

        What a call says later than that counts for nothing: a sync that the cut meets sometimes returns without an
        error, and after a real one there is nobody left to hear it.
        """
        self.acknowledged = [self.count(writer) for writer in range(WRITERS)]
        self._cells[0] = 1

    def begun(self, writer: int) -> int:
        return self._cells[self._place(writer)]

    def count(self, writer: int) -> int:
        """Return the last batch that was acknowledged."""
        return self._cells[self._place(writer) + 1]

    def total(self, writer: int, count: int) -> int:
        """Return the number among all of the namespace of an acknowledged batch."""
        return self._cells[self._place(writer) + 1 + count - self.start[writer]]

    def note_begun(self, writer: int, count: int) -> None:
        self._cells[self._place(writer)] = count

    def note_acknowledged(self, writer: int, count: int, total: int) -> None:
        self._cells[self._place(writer) + 1 + count - self.start[writer]] = total
        self._cells[self._place(writer) + 1] = count


class Store:
    """A store, its writers, and what must be in it after a cut."""

    def __init__(self, path: Path, durability: str, tally: Tally, *, keeps: bool) -> None:
        self.path = path
        self._keeps = keeps
        """Whether what was acknowledged must be there."""
        self._durability: Literal["fsync", "os"] = "os" if durability == "os" else "fsync"
        self._lies = durability == "none"
        self._tally = tally

    def _open(self) -> FilesKV:
        return FilesKV(self.path, durability=self._durability, timeout=10.0)

    def write(self, process: int, seed: int, complain: int) -> None:
        """Write until the power is cut. What goes wrong before that is written to the descriptor `complain`."""
        if self._lies:
            ignore_syncs()
        chance = random.Random(seed)
        try:
            while not self._tally.over:
                with self._open() as kv:
                    seeds = [chance.getrandbits(32) for _ in range(2)]
                    with ThreadPoolExecutor(2) as threads:
                        for done in [
                            threads.submit(self._work, kv, 2 * process + thread, random.Random(seed))
                            for thread, seed in enumerate(seeds)
                        ]:
                            done.result()
        except Exception:  # noqa: BLE001 - after the cut everything fails, before it nothing may
            if not self._tally.over:
                os.write(complain, traceback.format_exc().encode()[-6000:])

    def _work(self, kv: FilesKV, writer: int, chance: random.Random) -> None:
        space = kv.namespace(*namespace(writer))
        for _ in range(chance.randrange(10, 400)):
            count = self._tally.count(writer) + 1
            if self._tally.over or count - self._tally.start[writer] > ROOM:
                return
            self._tally.note_begun(writer, count)
            replies = space.execute(*batch(writer, count))
            self._tally.note_acknowledged(writer, count, replies[0])  # type: ignore[arg-type]
            if chance.random() < 0.02:
                kv.checkpoint()

    def look(self, closes: bool) -> dict[str, Any]:
        """Open what the cut left; return how many batches of each writer are there, and what is wrong."""
        kv = self._open()
        counts, wrong = [0] * WRITERS, []
        for parity in range(2):
            writers = range(parity, WRITERS, 2)
            with kv.namespace(*namespace(parity)).batch() as replies:
                replies.get("total").add(*(operation for writer in writers for operation in reading(writer)))
            total, found = int(replies.replies[0] or 0), replies.replies[1:]
            for place, writer in enumerate(writers):
                mine: list[Any] = found[5 * place : 5 * place + 5]
                mine[4] = [member for member, _ in mine[4]]
                counts[writer] = int(mine[3].get("count", 0))
                if mine != foreseen(writer, counts[writer]):
                    wrong.append(f"of writer {writer} there is half a batch: {str(mine)[:200]}")
            if total != sum(counts[writer] for writer in writers):
                wrong.append(f"there are {total} batches, but {counts} of the writers")
            wrong.extend(self._judged(writers, counts, total))
            keys = set(kv.namespace(*namespace(parity)).keys())
            if bool(total) != ("total" in keys):
                wrong.append(f"there are {total} batches, and the keys {sorted(keys)}")
        if closes:
            kv.close()
        return {"counts": counts, "wrong": wrong}

    def _judged(self, writers: range, counts: list[int], total: int) -> Iterator[str]:
        tally = self._tally
        for writer in writers:
            start, begun, acknowledged = tally.start[writer], tally.begun(writer), tally.acknowledged[writer]
            least = acknowledged if self._keeps else start
            if not least <= counts[writer] <= begun:
                yield f"of writer {writer} there are {counts[writer]} batches, and must be {least} to {begun}"
            for count in range(start + 1, acknowledged + 1):
                if (count <= counts[writer]) != (tally.total(writer, count) <= total):
                    yield f"{total} batches are there, but not the first: number {tally.total(writer, count)}"


def ignore_syncs() -> None:
    """Let every sync of this process do nothing, so that it can be seen that the cuts find it."""
    syncs = [os.fsync, os.fdatasync]
    for module in [os, *package()]:
        for name, function in list(vars(module).items()):
            if function in syncs:
                setattr(module, name, lambda descriptor: None)


def disturb(disk: Disk, store: Path, chance: random.Random) -> None:
    """Let something else happen on the disk that sends a part of what is cached."""
    files = [path for path in store.rglob("*") if chance.random() < 0.5]
    what = chance.randrange(8)
    if what == 0:
        neighbour = os.open(disk.path / "neighbour", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(neighbour, b"x")
        os.fsync(neighbour)
        os.close(neighbour)
    elif what == 1 and chance.random() < 0.3:
        top = os.open(disk.path, os.O_RDONLY)
        LIBC.syncfs(top)
        os.close(top)
    elif files:
        with contextlib.suppress(FileNotFoundError):
            file = os.open(chance.choice(files), os.O_RDONLY)
            if what < 5:
                LIBC.sync_file_range(file, ctypes.c_int64(chance.randrange(4) << 12), ctypes.c_int64(4096), WRITE_PAGES)
            else:
                os.fsync(file)
            os.close(file)


# The machine


def forked(function: Callable[[], None]) -> int:
    """Run the function in a process of its own, which does not outlive this one; return its id."""
    process = os.fork()
    if process == 0:
        LIBC.prctl(PARENT_DEATH, signal.SIGKILL)
        status = 1
        try:
            function()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    return process


def asked(function: Callable[[], dict[str, Any]], seconds: int) -> dict[str, Any]:
    """Return what the function returns in a process of its own."""
    reader, writer = os.pipe()

    def answer() -> None:
        signal.alarm(seconds)  # It hangs: the process dies without an answer.
        try:
            result = function()
        except Exception:  # noqa: BLE001 - whatever it is, it is the answer
            result = {"wrong": [traceback.format_exc()[-3000:]]}
        os.write(writer, json.dumps(result).encode())

    process = forked(answer)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read()
    os.waitpid(process, 0)
    return json.loads(said) if said else {"wrong": [f"no answer within {seconds} s"]}


class Machine:
    """The disk, the writers, the cuts."""

    def __init__(self, disk: Disk | Calm, boot: Path | None, durability: str, seed: int) -> None:
        self._disk = disk
        self._boot = boot
        self._durability = durability
        self._chance = random.Random(seed)
        self._tally = Tally()
        self._stores = 0
        self._start_store()

    def _start_store(self) -> None:
        self._stores += 1
        keeps = self._durability != "os" or isinstance(self._disk, Calm)
        self._store = Store(self._disk.path / f"store-{self._stores}", self._durability, self._tally, keeps=keeps)
        self._counts = [0] * WRITERS

    def run(self, cuts: int) -> Iterator[dict[str, Any]]:
        """Cut the power again and again, and yield what was found each time."""
        for cut in range(cuts):
            if cut % 8 == 0:
                self._start_store()
            self._tally.begin(self._counts)
            unsynced = self._disk.path / f"unsynced-{cut}"
            wrong = self._work_until_cut(unsynced)
            self._disk.restart()
            if self._boot is not None:
                self._boot.write_text(f"{secrets.token_hex(16)}\n")
            closes = self._chance.random() < 0.5
            result = asked(lambda: self._store.look(closes), 30)  # noqa: B023 - it is called at once
            acknowledged = sum(self._tally.acknowledged) - sum(self._counts)
            wrong += result["wrong"]
            yield {
                "acknowledged": acknowledged,
                "found": sum(result.get("counts", self._counts)) - sum(self._counts),
                "unsynced": unsynced.exists() and unsynced.read_bytes() == b"x",
                "wrong": wrong,
            }
            if wrong:
                self._start_store()
            else:
                self._counts = result["counts"]

    def _work_until_cut(self, unsynced: Path) -> list[str]:
        reader, writer = os.pipe()
        seeds = [self._chance.getrandbits(32) for _ in range(2)]
        processes = [
            forked(lambda: self._store.write(process, seed, writer))  # noqa: B023 - the fork has them
            for process, seed in enumerate(seeds)
        ]
        os.close(writer)
        end = time.monotonic() + self._chance.uniform(0.01, 0.3)
        try:
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, self._chance.uniform(0.001, 0.03)))
                if isinstance(self._disk, Disk):
                    disturb(self._disk, self._store.path, self._chance)
            unsynced.write_bytes(b"x")
        finally:
            self._tally.end()
            self._disk.cut()
            for process in processes:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
        with os.fdopen(reader, "rb") as file:
            complaints = file.read().decode()
        return [complaints] if complaints else []


def main() -> None:
    file_system, durability, cuts, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    LIBC.prctl(PARENT_DEATH, signal.SIGKILL)
    with contextlib.ExitStack() as stack:
        try:
            machine = start(file_system, Path(sys.argv[5]), stack, durability, seed)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise
            print(f"{error.strerror}: {error.filename or 'mount'}", file=sys.stderr)
            sys.exit(UNABLE)
        for result in machine.run(cuts):
            print(json.dumps(result), flush=True)


def start(file_system: str, place: Path, stack: contextlib.ExitStack, durability: str, seed: int) -> Machine:
    if file_system == "kill":
        return Machine(Calm(place), None, durability, seed)
    boot, mount = separate(place)
    return Machine(stack.enter_context(Disk(file_system, mount)), boot, durability, seed)


def separate(place: Path) -> tuple[Path, Path]:
    """Leave the mounts of the system; return the file that says which start of the machine this is, and a directory."""
    succeed(LIBC.unshare(NEW_MOUNTS))
    succeed(LIBC.mount(None, b"/", None, PRIVATE, None))
    succeed(LIBC.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"mode=700"))
    boot, mount = place / "boot", place / "mount"
    mount.mkdir()
    boot.write_text(f"{secrets.token_hex(16)}\n")
    succeed(LIBC.mount(os.fsencode(boot), BOOT.encode(), None, BIND, None))
    return boot, mount


if __name__ == "__main__":
    main()
