"""Object stores over a network that fails: never half a backup is listed, and no credential is told."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import timedelta

import pytest
from services import ACCOUNT_KEY, BUCKET, SECRET, Relay, Running, serving
from sources import snapshot

from empathy_kv import (
    Backups,
    ClosedError,
    CollaborationState,
    EmpathyKVError,
    OutcomeUnknown,
    StorageError,
    UnavailableError,
    connect,
)
from empathy_kv.backup import archive, urls
from empathy_kv.backup.target import Target
from empathy_kv.errors import StoragePermissionError
from empathy_kv.snapshot import content, dump

SERVICES = ("s3", "az", "gs")
NIGHTLY = os.environ.get("EMPATHY_KV_PROFILE") == "nightly"
NOBODY = timedelta(seconds=-3600)

services = pytest.mark.parametrize("kind", SERVICES)
most = pytest.mark.parametrize("kind", SERVICES if NIGHTLY else ("gs",))
"""Each request of each service takes its time, and which one it is makes no difference to what is done."""


@pytest.fixture
def running(kind: str, request: pytest.FixtureRequest) -> Running:
    running: Running = request.getfixturevalue(kind)
    return running


@pytest.fixture
def relay(url: str, running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The way to the service on which requests fail as a test says; the environment leads over it."""
    relay = Relay(running.address)
    with serving(relay.handler) as address:
        for name, value in running.environment(address).items():
            monkeypatch.setenv(name, value)
        yield relay


@pytest.fixture
def direct(target: Target) -> Target:
    """The same target, past the relay: `target` was opened before that."""
    return target


def whole(direct: Target) -> list[str]:
    """Return the names of what is listed; each has to be whole."""
    listed = archive.listed(direct)
    for backup in listed:
        assert backup.problem is None
        assert [problem for problem in archive.problems(direct, backup) if problem is not None] == []
    return [backup.name for backup in listed]


@pytest.mark.usefixtures("small", "hasty")
@most
@pytest.mark.parametrize("fault", ["before", "after", "busy", "half"])
def test_a_request_that_fails_once_is_repeated(fault: str, direct: Target, relay: Relay, url: str) -> None:
    over = urls.opened(url, 60.0)
    archive.write(over, snapshot(130))
    requests = len(relay.requests)
    assert requests == 5
    for number in range(requests):
        relay.requests.clear()
        relay.plan = lambda n, number=number: fault if n == number else None
        made = archive.write(over, snapshot(130))
        assert whole(direct)[-1] == made.name
        assert archive.leftovers(direct, NOBODY) == []
    over.close()


@pytest.mark.usefixtures("small", "hasty")
@most
@pytest.mark.parametrize("fault", ["before", "after", "busy"])
def test_a_network_that_is_gone_from_some_request_on_leaves_whole_backups(
    fault: str, direct: Target, relay: Relay, url: str
) -> None:
    over = urls.opened(url, 60.0)
    archive.write(over, snapshot(130))
    requests = len(relay.requests)
    unknown = 0
    for number in range(requests):
        before = whole(direct)
        relay.requests.clear()
        relay.plan = lambda n, number=number: fault if n >= number else None
        with pytest.raises((UnavailableError, OutcomeUnknown)) as caught:
            archive.write(over, snapshot(130))
        relay.plan = lambda _: None
        new = [name for name in whole(direct) if name not in before]
        if isinstance(caught.value, OutcomeUnknown):
            unknown += 1
            assert len(new) == (1 if fault == "after" else 0)
            assert caught.value.token is None
        else:
            assert new == []
        assert archive.write(over, snapshot(130)).name in whole(direct)  # The next run succeeds.
    assert unknown == 1
    for paths in archive.leftovers(direct, NOBODY):
        direct.delete(paths)
    assert archive.leftovers(direct, NOBODY) == []
    assert len(whole(direct)) >= requests
    over.close()


@pytest.mark.usefixtures("small", "hasty")
@most
def test_a_lost_answer_to_the_last_request_is_looked_up(direct: Target, relay: Relay, url: str) -> None:
    """The manifest was written, and only the answers to that were lost: it is there, and that is what counts."""
    over = urls.opened(url, 60.0)
    relay.plan = lambda n: (
        "after" if relay.requests[n][0] == "PUT" and ".json" in relay.requests[n][1].replace("%2E", ".")[-6:] else None
    )
    made = archive.write(over, snapshot(130))
    assert [method for method, _ in relay.requests[-3:]] == ["PUT", "PUT", "GET"]
    assert whole(direct) == [made.name]
    over.close()


@pytest.mark.usefixtures("small", "hasty")
@most
def test_a_removal_that_stops_at_any_request_leaves_whole_backups(direct: Target, relay: Relay, url: str) -> None:
    over = urls.opened(url, 60.0)
    for number in range(4):
        made = archive.write(direct, snapshot(130))
        relay.requests.clear()
        relay.plan = lambda n, number=number: "before" if n >= number else None
        with pytest.raises(UnavailableError):
            archive.remove(over, made)
        relay.plan = lambda _: None
        assert (made.name in whole(direct)) == (number == 0)
        for paths in archive.leftovers(direct, NOBODY):
            direct.delete(paths)
        assert archive.leftovers(direct, NOBODY) == []
    over.close()


@pytest.mark.usefixtures("small", "hasty")
@most
def test_a_backup_whose_reading_stops_at_any_request_is_not_restored_in_part(
    direct: Target, relay: Relay, url: str
) -> None:
    made = archive.write(direct, snapshot(130))
    over = urls.opened(url, 60.0)
    for number in range(len(made.parts)):
        for fault in ("before", "busy", "half"):
            relay.requests.clear()
            relay.plan = lambda n, number=number, fault=fault: fault if n >= number else None
            with pytest.raises(UnavailableError):
                list(archive.lines(over, made))
            with pytest.raises(UnavailableError):
                list(archive.problems(over, made))
    relay.plan = lambda _: None
    assert list(archive.lines(over, made)) == list(snapshot(130))
    over.close()


@pytest.mark.usefixtures("small", "hasty")
@most
def test_a_restore_whose_network_is_gone_at_any_request_changes_nothing(relay: Relay, url: str) -> None:
    with Backups(url) as backups, connect("memory:") as source, connect("memory:") as store:
        for number in range(40):
            source.states.save_state(f"user {number}", CollaborationState(extra={"text": os.urandom(60).hex()}))
        store.states.save_state("mine", CollaborationState())
        assert len(backups.create(source).parts) > 1
        before = content(dump(store))
        relay.requests.clear()
        with connect("memory:") as other:
            backups.restore(None, other)
        requests = len(relay.requests)
        assert requests >= 7  # A list, the manifest, each part twice, a list.
        for number in range(requests):
            relay.requests.clear()
            relay.plan = lambda n, number=number: "before" if n >= number else None
            with pytest.raises(UnavailableError):
                backups.restore(None, store, replace=True)
            assert content(dump(store)) == before
        relay.plan = lambda _: None
        backups.restore(None, store, replace=True)
        assert content(dump(store)) == content(dump(source))


CHILD = """
import sys
from sources import snapshot
from empathy_kv.backup import archive, parts, urls
parts.RAW, parts._BLOCK = 6_000, 500
archive.write(urls.opened(sys.argv[1], 60.0), snapshot(130))
"""


@pytest.mark.usefixtures("small")
@most
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_killed_at_any_request_leaves_whole_backups(
    moment: str, direct: Target, relay: Relay, url: str
) -> None:
    """SIGKILL before the service has seen a request, and after it has done it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    archive.write(urls.opened(url, 60.0), snapshot(130))
    requests = list(range(len(relay.requests)))
    for number in requests if NIGHTLY else requests[1::2] + requests[-1:]:
        relay.requests.clear()
        # What was not passed on when the process was killed never is: else it would be while the rest is looked at.
        relay.plan = lambda n, number=number: moment if n == number else None
        with subprocess.Popen([sys.executable, "-c", CHILD, url], env=environment) as child:

            def seen(
                when: str, method: str, path: str, child: subprocess.Popen[bytes] = child, number: int = number
            ) -> None:
                if when == moment and len(relay.requests) == number + 1:
                    child.send_signal(signal.SIGKILL)
                    child.wait()

            relay.seen = seen
            assert child.wait(timeout=120) == -signal.SIGKILL
            relay.seen = lambda *_: None
        relay.plan = lambda _: None
        names = whole(direct)
        assert archive.write(direct, snapshot(130)).name == whole(direct)[-1]
        assert len(whole(direct)) == len(names) + 1
    for paths in archive.leftovers(direct, NOBODY):
        direct.delete(paths)
    assert archive.leftovers(direct, NOBODY) == []
    assert whole(direct)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["az", "gs"])  # moto takes any.
def test_wrong_credentials_are_refused_and_never_told(
    url: str, running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "bm90IHRoZSByaWdodCBvbmUgYXQgYWxs"
    for name, value in running.environment(running.address).items():
        if value in (SECRET, ACCOUNT_KEY):
            monkeypatch.setenv(name, wrong)
    with Backups(url) as backups:
        with pytest.raises(StoragePermissionError) as caught:
            backups.list()
        told = shown(caught.value) + repr(backups) + str(backups) + caplog.text
    assert wrong not in told
    assert "refused" in str(caught.value)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["gs"])  # The others sign with a key that they do not send.
def test_a_service_that_repeats_a_credential_is_not_quoted(relay: Relay, url: str) -> None:
    relay.plan = lambda _: "echo"
    with Backups(url) as backups, pytest.raises(StorageError, match=r"400 Bad Request \(BadRequest\)") as caught:
        backups.find("20250115T020000.000000Z-1a2b3c4d")
    assert SECRET not in shown(caught.value)


def shown(error: BaseException) -> str:
    """Return all that anybody is shown of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + repr(pickle.dumps(error))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["az"])
def test_a_signature_in_the_environment_is_not_told(
    url: str, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    signature = "sv=2021-08-06&ss=b&srt=sco&sp=rwdl&se=2099-01-01T00:00:00Z&sig=Zm9vYmFyYmF6cXV4%3D"
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", signature)
    with Backups(url) as backups, pytest.raises(EmpathyKVError) as caught:
        backups.list()
    assert "Zm9v" not in shown(caught.value)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9/x")
    with Backups(url) as backups, pytest.raises(UnavailableError) as unreachable:
        backups.list()
    assert "Zm9v" not in shown(unreachable.value)


@pytest.mark.usefixtures("hasty")
@services
def test_a_bucket_that_is_not_there_is_told(url: str, running: Running) -> None:
    with Backups(url.replace(BUCKET, "another")) as backups:
        with pytest.raises(StorageError, match="another"):
            backups.list()
        with pytest.raises(StorageError, match="another"):
            archive.write(urls.opened(url.replace(BUCKET, "another"), 60.0), snapshot(5))


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["s3"])
def test_a_service_that_cannot_be_reached_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with Backups(url) as backups, pytest.raises(UnavailableError, match="cannot be reached") as caught:
        backups.list()
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize("kind", ["s3"])
def test_plain_http_has_to_be_allowed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with Backups(url) as backups, pytest.raises(UnavailableError, match="AWS_ALLOW_HTTP=true"):
        backups.list()


@pytest.mark.parametrize("kind", ["gs"])
def test_a_closed_target_says_so(url: str) -> None:
    with Backups(url) as backups:
        assert backups.list() == []
    backups.close()
    with pytest.raises(ClosedError):
        backups.list()


@pytest.mark.parametrize("kind", ["gs"])
def test_the_threads_of_a_target_end_with_it(url: str) -> None:
    def threads() -> int:
        return sum(thread.name == "empathy-kv-backup" for thread in threading.enumerate())

    before = threads()
    backups = Backups(url)
    assert backups.list() == []
    assert threads() == before + 1
    del backups
    assert threads() == before


ENDING = """
import sys
from sources import snapshot
from empathy_kv.backup import archive, urls
target = urls.opened(sys.argv[1], 60.0)
made = archive.write(target, snapshot(5))
assert not any(archive.problems(target, made))
target.close()
"""


@pytest.mark.parametrize("kind", ["gs"])
def test_a_process_that_ends_at_once_ends_well(url: str) -> None:
    """obstore has threads of its own: one that called Python now would abort the process, every other time."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(100 if NIGHTLY else 4):
        done = subprocess.run([sys.executable, "-c", ENDING, url], env=environment, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")


HANGING = """
import sys
from empathy_kv import Backups
print("ready", flush=True)
try:
    Backups(sys.argv[1]).list()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("kind", ["gs"])
def test_a_service_that_does_not_answer_can_be_interrupted(direct: Target, relay: Relay, url: str) -> None:
    arrived, end = threading.Event(), threading.Event()
    relay.seen = lambda *_: (arrived.set(), end.wait(60))[0]
    with subprocess.Popen([sys.executable, "-c", HANGING, url], stdout=subprocess.PIPE, text=True) as child:
        assert arrived.wait(60)
        child.send_signal(signal.SIGINT)
        assert child.stdout is not None
        assert child.stdout.read() == "ready\ninterrupted\n"
        assert child.wait(timeout=60) == 0
    end.set()
