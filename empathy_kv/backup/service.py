"""Amazon S3, Azure Blob Storage, Google Cloud Storage and what speaks as they do, over obstore.

Endpoint, credentials and the rest come from the environment variables that obstore knows (`AWS_...`, `AZURE_...`,
`GOOGLE_...`). obstore repeats a request whose answer was lost; here that is safe, because an object is always written
whole, under a name that only this backup has.

Calls are made in a thread beside the caller's, since they would keep Ctrl-C and SIGTERM waiting until the network gave
up. They are not obstore's asynchronous ones, which can be given up, too: those tell of their results from threads that
nobody can wait for, and abort a process that ends meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Final, TypeVar

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from empathy_kv.backup.target import Found
from empathy_kv.errors import (
    ClosedError,
    EmpathyKVError,
    MissingFileError,
    StorageError,
    StoragePermissionError,
    UnavailableError,
)

T = TypeVar("T")

_PIECE: Final = 1 << 20
_RETRIES: Final[dict[str, Any]] = {"max_retries": 10, "backoff": {"init_backoff": timedelta(milliseconds=100)}}
"""How often and how soon a request is repeated, as long as there is time for it."""
_LISTS: Final = 3
"""How often a list is asked for."""
_VARIABLES: Final = {"s3": "AWS_", "az": "AZURE_", "gs": "GOOGLE_"}
_STATUS: Final = re.compile(r"Server returned non-2xx status code: (\d{3}[^:\n]*)")
_CODE: Final = re.compile(r"<Code>([\w.]{1,80})</Code>")
_CREDENTIALS: Final = re.compile(r"KEY|SECRET|TOKEN|SAS|PASSWORD|CREDENTIAL|ACCOUNT_KEY|SERVICE_ACCOUNT")


class Service:
    """A prefix of a bucket or container. `timeout`: seconds that a request may take, its repetitions included."""

    def __init__(self, scheme: str, bucket: str, prefix: str, timeout: float) -> None:
        self._url = f"{scheme}://{bucket}/{prefix}".rstrip("/")
        self._timeout = timeout
        self._variables = _VARIABLES[scheme]
        self._secrets = _secrets(self._variables)
        self._worker: _Worker | None = None
        self._end: Callable[[], object] | None = None
        self._closed = False
        options: dict[str, Any] = {
            "prefix": prefix or None,
            # Not as `client_options`: with those, obstore does not look at `AWS_ALLOW_HTTP` and its like. An attempt
            # that hangs leaves time for another one.
            "config": {"timeout": f"{int(timeout * 500)}ms"},
            "retry_config": {**_RETRIES, "retry_timeout": timedelta(seconds=timeout)},
        }
        kind: Any = {"s3": S3Store, "az": AzureStore, "gs": GCSStore}[scheme]
        with self._translated(""):
            self._store: ObjectStore = kind(bucket, **options)

    def __repr__(self) -> str:
        return self._url  # obstore's own may panic, and needs not keep to what ours may show.

    def put(self, path: str, data: bytes) -> None:
        # In one request: an upload in several could leave pieces that nothing lists and somebody pays for.
        self._call(path, obstore.put, self._store, path, data, use_multipart=False)

    def get(self, path: str, most: int) -> Iterator[bytes]:
        stream = self._call(path, obstore.get, self._store, path).stream(_PIECE)
        while most >= 0 and (piece := self._call(path, _next, stream)) is not None:
            most -= len(piece)
            yield piece

    def objects(self) -> tuple[list[Found], list[str]]:
        result = self._list("", obstore.list_with_delimiter, self._store)
        return [_found(each) for each in result["objects"]], list(result["common_prefixes"])

    def below(self, name: str) -> list[Found]:
        return [_found(each) for each in self._list(name, _collected, self._store, name)]

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            # One by one: where many are deleted at once, one that is not there stops S3 at nothing, Azure at that one.
            with contextlib.suppress(MissingFileError):
                self._call(path, obstore.delete, self._store, path)

    def close(self) -> None:
        self._closed = True
        if self._end is not None:
            self._end()

    def _list(self, path: str, function: Callable[..., Any], *arguments: Any) -> Any:
        # obstore repeats the request for a list, but not if it is the answer that breaks off.
        until = time.monotonic() + self._timeout
        for _ in range(_LISTS - 1):
            with contextlib.suppress(UnavailableError):
                return self._call(path, function, *arguments)
            if time.monotonic() > until:
                break
        return self._call(path, function, *arguments)

    def _call(self, path: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if self._closed:
            raise ClosedError(f"{self._url} was closed")
        if self._worker is None or not self._worker.free:
            self._worker = _Worker()
            self._end = weakref.finalize(self, self._worker.close)
        with self._translated(path):
            return self._worker.call(functools.partial(function, *arguments, **options))

    @contextlib.contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        """Turn an error of obstore into one of ours. It is its cause only if it holds no credential."""
        failure: Exception | None = None
        try:
            yield
        except EmpathyKVError:
            raise
        except (BaseError, OSError, ValueError) as error:
            failure = error
        if failure is not None:
            # Out of the handler, since the context of an error is shown as well as its cause.
            raise self._error(failure, path) from (failure if self._clean(str(failure)) == str(failure) else None)

    def _error(self, error: Exception, path: str) -> EmpathyKVError:
        where = f"{self._url}/{path}".rstrip("/")
        text = str(error)
        status = _STATUS.search(text)
        code = _CODE.search(text)
        if status is not None:
            said = status[1].strip() + (f" ({code[1]})" if code else "")
        else:
            said = self._clean(text.partition("\n")[0].partition(" - ")[2] or text.partition("\n")[0])[:300]
        if isinstance(error, FileNotFoundError):
            if code is not None and code[1] in ("NoSuchBucket", "ContainerNotFound"):
                return StorageError(f"{where}: there is no such bucket or container", path=where)
            return MissingFileError(f"there is no object {where}", path=where)
        refused = status is not None and status[1].startswith(("401", "403"))
        if refused or isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
            return StoragePermissionError(f"{where}: it was refused: {said}", path=where)
        if status is not None and not status[1].startswith(("5", "429")):
            return StorageError(f"{where}: it was refused: {said}", path=where)
        if said.endswith("builder error"):  # That is all that it says of a scheme which is not allowed.
            said += f" ({self._variables}ALLOW_HTTP=true allows plain http:// for the endpoint)"
        return UnavailableError(f"{where} cannot be reached: {said}")

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return re.sub(r"(https?://)[^\s/?#@]*@|\?[^\s)\"',]*", r"\1", text)


def _secrets(prefix: str) -> list[str]:
    """Return the credentials in the environment, the longest first, and their parts."""
    found = {
        value for name, value in os.environ.items() if name.upper().startswith(prefix) and _CREDENTIALS.search(name)
    }
    parts = {part.partition("=")[2] for value in found for part in value.split("&") if part.startswith("sig=")}
    return sorted((value for value in found | parts if len(value) >= 4), key=len, reverse=True)


def _found(meta: Any) -> Found:
    return Found(meta["path"], meta["size"], meta["last_modified"])


def _next(stream: Iterator[Any]) -> bytes | None:
    piece = next(stream, None)
    return None if piece is None else bytes(piece)


def _collected(store: ObjectStore, name: str) -> Any:
    return obstore.list(store, name).collect()


class _Worker:
    """A thread that makes calls, one at a time, for a caller who can leave."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._left = False
        self._thread = threading.Thread(target=self._work, name="empathy-kv-backup", daemon=True)
        self._thread.start()

    @property
    def free(self) -> bool:
        """Whether it can be called: nobody left it with a call, and this process is none that forked from its own."""
        return not self._left and self._process == os.getpid()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, function = job
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            del job, future, function  # What they hold would last until the next.

    def call(self, function: Callable[[], T]) -> T:
        future: Future[T] = Future()
        self._jobs.put((future, function))
        try:
            return future.result()
        finally:
            self._left = not future.done()
            del future  # An error that it holds has this frame in its traceback.

    def close(self) -> None:
        self._jobs.put(None)
        if self.free:
            self._thread.join()
