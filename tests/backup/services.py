"""Object stores on loopback, for backups: moto for S3, Azurite for Azure, and one of our own for Google.

`Relay` stands before any of them and fails as networks do, at the request that a test names.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import http.server
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from attrs import field, frozen

SECRET: Final = "s3cr3t-and-not-to-be-shown"
BUCKET: Final = "backups"

KINDS: Final = ("directory", "s3", "az", "gs")
"""Of targets."""

Environment = dict[str, str]


@frozen
class Running:
    """A service: where it listens, and the environment in which obstore finds it at another address."""

    scheme: str
    address: str
    environment: Callable[[str], Environment] = field(repr=False)

    def target(self, prefix: str) -> str:
        return f"{self.scheme}://{BUCKET}/{prefix}"


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle of a request is what tests do."""


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of the loopback, and yield its address."""
    server = _Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


# Google


class _GoogleHandler(http.server.BaseHTTPRequestHandler):
    """The part of the XML API of Google Cloud Storage that obstore speaks; lists come in pages of three."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Else the client waits 40 ms for what follows the head.
    objects: dict[str, tuple[bytes, float]]
    PAGE = 3

    def _bucket_and_key(self) -> tuple[str, str]:
        bucket, _, key = urlsplit(self.path).path.lstrip("/").partition("/")
        return unquote(bucket), unquote(key)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode())

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bucket, key = self._bucket_and_key()
        if self.headers.get("Authorization") != f"Bearer {SECRET}":
            self._refuse(401, "AuthenticationRequired")
        elif bucket != BUCKET:
            self._refuse(404, "NoSuchBucket")
        elif not key:
            self._list({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})
        elif self.command == "PUT":
            self.objects[key] = body, time.time()
            self._answer(200, ETag=_tag(body))
        elif key not in self.objects:
            self._refuse(404, "NoSuchKey")
        elif self.command == "DELETE":
            self.objects.pop(key, None)
            self._answer(204)
        else:
            content, at = self.objects[key]
            self._answer(200, content, ETag=_tag(content), Last_Modified=email.utils.formatdate(at, usegmt=True))

    do_GET = do_HEAD = do_PUT = do_DELETE = _handle  # noqa: N815 - the names that http.server looks for

    def _list(self, query: Environment) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        entries: dict[str, str] = {}
        for key, (content, at) in sorted(self.objects.items()):
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                entries[prefix + head + "/"] = (
                    f"<CommonPrefixes><Prefix>{escape(prefix + head)}/</Prefix></CommonPrefixes>"
                )
            else:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + ".000Z"
                entries[key] = (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp}</LastModified>"
                    f"<ETag>{escape(_tag(content))}</ETag><Size>{len(content)}</Size></Contents>"
                )
        after = base64.b64decode(query.get("continuation-token", "")).decode()
        names = sorted(name for name in entries if name > after)
        page, more = names[: self.PAGE], names[self.PAGE :]
        token = base64.b64encode(page[-1].encode()).decode() if more else ""
        following = f"<NextContinuationToken>{token}</NextContinuationToken>" if more else ""
        inside = "".join(entries[name] for name in page)
        self._answer(
            200,
            f"<?xml version='1.0'?><ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{following}{inside}</ListBucketResult>".encode(),
        )

    def log_message(self, format: str, *arguments: Any) -> None:
        """Not while tests run."""


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@contextlib.contextmanager
def google() -> Iterator[Running]:
    """Google Cloud Storage, as far as obstore uses it."""

    def environment(address: str) -> Environment:
        return {"GOOGLE_BASE_URL": f"http://{address}", "GOOGLE_ALLOW_HTTP": "true", "GOOGLE_BEARER_TOKEN": SECRET}

    with serving(type("Handler", (_GoogleHandler,), {"objects": {}})) as address:
        yield Running("gs", address, environment)


# Amazon


@contextlib.contextmanager
def amazon() -> Iterator[Running]:
    """S3, as moto has it."""
    code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
    with _process(lambda port, _: [sys.executable, "-c", code, str(port)]) as address:
        _request(f"http://{address}/{BUCKET}", {})

        def environment(address: str) -> Environment:
            return {
                "AWS_ENDPOINT_URL": f"http://{address}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": "backup",
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_REGION": "us-east-1",
            }

        yield Running("s3", address, environment)


# Microsoft

ACCOUNT: Final = "devstoreaccount1"
# Not a secret: the account that every Azurite has, as its documentation says.
ACCOUNT_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def find_azurite() -> list[str] | None:
    """Return the command that starts it: one from PATH, or the one that scripts/test has brought along."""
    for folders in (None, str(Path(sys.executable).parent)):
        if (path := shutil.which("azurite-blob", path=folders)) and shutil.which("node"):
            return [path]
    return None


@contextlib.contextmanager
def microsoft() -> Iterator[Running]:
    """Azure Blob Storage, as Azurite has it."""
    command = find_azurite()
    assert command is not None

    def started(port: int, directory: str) -> list[str]:
        options = ["--location", directory, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        return [*command, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]

    def environment(address: str) -> Environment:
        return {
            "AZURE_STORAGE_ENDPOINT": f"http://{address}/{ACCOUNT}",
            "AZURE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
        }

    with _process(started) as address:
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        what = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed = "PUT" + "\n" * 12 + f"{what}/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
        signature = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
        _request(f"http://{address}/{ACCOUNT}/{BUCKET}?restype=container", headers)
        yield Running("az", address, environment)


def _request(url: str, headers: Environment) -> None:
    request = urllib.request.Request(url, method="PUT", headers={"Content-Length": "0", **headers})
    with urllib.request.urlopen(request, timeout=60):
        pass


@contextlib.contextmanager
def _process(command: Callable[[int, str], list[str]]) -> Iterator[str]:
    """Run a server in a process of its own until it is no longer needed, and yield its address once it answers."""
    with tempfile.TemporaryDirectory() as directory, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        reserved.close()
        with open(os.path.join(directory, "log"), "w+b") as log:
            process = subprocess.Popen(
                command(port, directory), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory
            )
            try:
                until = time.monotonic() + 60
                while not _answers(port):
                    if process.poll() is not None or time.monotonic() > until:
                        log.seek(0)
                        raise RuntimeError(f"{command(port, directory)} did not start: {log.read().decode()}")
                    time.sleep(0.02)
                yield f"127.0.0.1:{port}"
            finally:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# What can happen on the way


class Relay:
    """A way to a service on which requests fail.

    `plan` says of a request, by its number from 0, what happens: None passes it on; "before" drops the connection
    before the service has seen it; "after" when it has done it, but before it is answered; "busy" answers with 503;
    "half" breaks off in the middle of the answer; "echo" refuses it and repeats how it was signed. A function is called
    before that, with the method and the path.
    """

    def __init__(self, service: str) -> None:
        self.requests: list[tuple[str, str]] = []
        self.plan: Callable[[int], str | None] = lambda _: None
        self.seen: Callable[[str, str, str], None] = lambda *_: None
        self._lock = threading.Lock()
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one(self) -> None:
                with relay._lock:
                    number = len(relay.requests)
                    relay.requests.append((self.command, self.path))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = relay.plan(number)
                relay.seen("before", self.command, self.path)
                if fault == "before":
                    return self.drop()
                if fault == "busy":
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if fault == "echo":
                    said = f"<Error><Code>BadRequest</Code><Message>{self.headers}</Message></Error>".encode()
                    self.send_response(400)
                    self.send_header("Content-Length", str(len(said)))
                    self.end_headers()
                    self.wfile.write(said)
                    return None
                connection = http.client.HTTPConnection(service, timeout=60)
                try:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    content = answer.read()
                finally:
                    connection.close()
                relay.seen("after", self.command, self.path)
                if fault == "after":
                    return self.drop()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                if length is not None and answer.status != 204:
                    self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "half" else content)
                if fault == "half":
                    self.drop()
                return None

            def drop(self) -> None:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_one  # noqa: N815

            def log_message(self, format: str, *arguments: Any) -> None:
                """Not while tests run."""

        self.handler = Handler


def quoted(path: str) -> str:
    """Return a path as it stands in a request of one of the services, whichever that is."""
    return quote(path, safe="")
