"""Collaboration states: on every engine, and as a directory of files in the documented form."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empathy_kv.codec import codec
from empathy_kv.errors import (
    ArgumentTypeError,
    CheckError,
    CodecError,
    DamagedError,
    LockTimeoutError,
    StateNotFoundError,
    StorageError,
)
from empathy_kv.kv.files.flat import FlatDirectory
from empathy_kv.kv.files.names import name
from empathy_kv.records import CollaborationState, level_of
from empathy_kv.states import StateManager
from empathy_kv.urls import connect

if TYPE_CHECKING:
    from domain.conftest import Fresh

DOCUMENTED = {
    "user_id": "user_123",
    "trust_level": 0.65,
    "current_level": 3,
    "target_level": 4,
    "interaction_count": 50,
    "success_count": 45,
    "failure_count": 5,
    "last_interaction": "2025-01-20T15:00:00",
    "created_at": "2025-01-01T00:00:00",
}
# As StateManager.save_state of empathy-framework 3.9.3 writes it.
OLDER = {
    "user_id": "user_123",
    "trust_level": 0.65,
    "total_interactions": 50,
    "successful_interventions": 45,
    "failed_interventions": 5,
    "session_start": "2025-01-01T00:00:00",
    "trust_trajectory": [0.55, 0.6, 0.65],
    "shared_context": {"project": "x", "deep": [{"a": None}]},
    "saved_at": "2025-01-20T15:00:00.123456",
}


def the_state() -> CollaborationState:
    return CollaborationState(
        "user_123",
        0.65,
        3,
        4,
        50,
        45,
        5,
        datetime(2025, 1, 20, 15, tzinfo=UTC),
        datetime(2025, 1, 1, tzinfo=UTC),
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "above" / "state"


def write(directory: Path, file: str, document: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / file
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document, indent=2).encode())
    return path


# Saving and loading


def test_a_saved_state_is_loaded_back(states: StateManager) -> None:
    states.save_state("user_123", the_state())
    assert states.load_state("user_123") == the_state()


def test_a_state_is_stored_under_the_id_that_is_given_and_says_so(states: StateManager) -> None:
    mine = the_state()
    states.save_state("somebody_else", mine)
    assert mine == the_state(), "what was given is left as it is"
    assert states.load_state("somebody_else").user_id == "somebody_else"
    assert states.list_users() == ["somebody_else"]


def test_a_later_save_takes_the_place_of_the_one_before(states: StateManager) -> None:
    for trust in (0.1, 0.2, 0.3):
        states.save_state("u", CollaborationState("u", trust))
    assert states.load_state("u").trust_level == 0.3
    assert states.list_users() == ["u"]


def test_what_was_loaded_is_the_caller_s_own(states: StateManager) -> None:
    states.save_state("u", CollaborationState("u", extra={"a": [1]}))
    state = states.load_state("u")
    state.extra["a"].append(2)
    state.record(True)
    assert states.load_state("u").extra == {"a": [1]}
    assert states.load_state("u").interaction_count == 0


def test_a_state_that_is_not_there_is_a_file_not_found_and_a_key_error(states: StateManager) -> None:
    for load in (states.load_state, states.load_versioned):
        with pytest.raises(StateNotFoundError) as caught:
            load("nobody")
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, KeyError)
        assert caught.value.user_id == "nobody"
        assert "nobody" in str(caught.value)
    states.save_state("u", CollaborationState())
    states.delete_state("u")
    with pytest.raises(FileNotFoundError):
        states.load_state("u")


def test_deleting_says_whether_there_was_one(states: StateManager) -> None:
    assert states.delete_state("u") is False
    states.save_state("u", CollaborationState())
    states.save_state("v", CollaborationState())
    assert states.delete_state("u") is True
    assert states.delete_state("u") is False
    assert states.list_users() == ["v"]


def test_users_are_listed_sorted(states: StateManager) -> None:
    assert states.list_users() == []
    users = ["zoe", "Adam", "adam", "é", "a b", "user_123", "10", "9"]
    for user in users:
        states.save_state(user, CollaborationState())
    assert states.list_users() == sorted(users)


def test_unknown_fields_survive(states: StateManager) -> None:
    states.save_state("u", CollaborationState("u", extra={"team": "red", "deep": {"a": [1, None, 2.5]}}))
    state = states.load_state("u")
    state.record(True)
    states.save_state("u", state)
    assert states.load_state("u").extra == {"team": "red", "deep": {"a": [1, None, 2.5]}}


def test_times_are_kept_in_utc_and_a_naive_one_is_taken_as_utc(states: StateManager) -> None:
    naive = datetime(2025, 1, 1, 12)  # noqa: DTZ001 - the documented form
    east = naive.replace(tzinfo=timezone(timedelta(hours=5, minutes=45)))
    states.save_state("u", CollaborationState("u", created_at=naive, last_interaction=east))
    state = states.load_state("u")
    assert state.created_at == datetime(2025, 1, 1, 12, tzinfo=UTC)
    assert state.last_interaction == datetime(2025, 1, 1, 6, 15, tzinfo=UTC)


def test_a_state_migrates_from_one_manager_to_another(states: StateManager, tmp_path: Path) -> None:
    other = StateManager(state_dir=tmp_path / "new" / "system")
    for number in range(5):
        states.save_state(f"u{number}", CollaborationState(f"u{number}", number / 10, extra={"n": number}))
    for user in states.list_users():
        other.save_state(user, states.load_state(user))
    assert other.list_users() == states.list_users()
    for user in other.list_users():
        assert other.load_state(user) == states.load_state(user)


# Versions


def test_a_state_is_saved_only_if_it_has_the_expected_version(states: StateManager) -> None:
    first = states.save_state("u", CollaborationState("u", 0.1), expected_version=0)
    assert first > 0
    state, version = states.load_versioned("u")
    assert (state.trust_level, version) == (0.1, first)
    with pytest.raises(CheckError) as caught:
        states.save_state("u", CollaborationState("u", 0.9), expected_version=0)
    assert (caught.value.key, caught.value.expected, caught.value.actual) == ("u", 0, first)
    assert str(caught.value).endswith(f"'u' has version {first}, and was to be absent: somebody else wrote it")
    second = states.save_state("u", CollaborationState("u", 0.2), expected_version=first)
    assert second != first
    with pytest.raises(CheckError) as caught:
        states.save_state("u", CollaborationState("u", 0.9), expected_version=first)
    assert str(caught.value) == f"state of 'u' has version {second}, not {first}: somebody else wrote it"
    assert states.load_versioned("u") == (states.load_state("u"), second)
    assert states.load_state("u").trust_level == 0.2
    states.delete_state("u")
    with pytest.raises(CheckError) as caught:
        states.save_state("u", CollaborationState("u", 0.9), expected_version=second)
    assert caught.value.actual == 0
    assert states.list_users() == []
    states.save_state("u", CollaborationState("u", 0.3), expected_version=0)
    assert states.load_state("u").trust_level == 0.3


def test_a_version_is_that_of_the_state_it_was_loaded_with(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that comes in the midst of `load_versioned`: what was read before it must not get the version after it."""
    reader, writer = StateManager(state_dir=directory), StateManager(state_dir=directory)
    writer.save_state("u", CollaborationState("u", interaction_count=1))
    load, meanwhile = FlatDirectory._load, iter([2])

    def interrupted(self: FlatDirectory, key: str) -> bytes | None:
        data = load(self, key)
        if self is reader._kv:
            for count in meanwhile:
                try:
                    writer.save_state("u", CollaborationState("u", interaction_count=count))
                except LockTimeoutError:
                    pass  # The reader holds the lock: as good.
        return data

    monkeypatch.setattr(FlatDirectory, "_load", interrupted)
    state, version = reader.load_versioned("u")
    monkeypatch.undo()
    now, current = reader.load_versioned("u")
    assert (version == current) == (state == now)


_COUNT = """
import sys
from empathy_kv import CheckError, StateManager, connect
where, times, prefix = sys.argv[1], int(sys.argv[2]), sys.argv[3]
states = StateManager(state_dir=where[4:]) if where.startswith("dir:") else connect(
    where, prefix=prefix, durability="os", timeout=30.0).states
print("ready", flush=True)
sys.stdin.readline()
for _ in range(times):
    while True:
        state, version = states.load_versioned("u")
        state.interaction_count += 1
        try:
            states.save_state("u", state, expected_version=version)
            break
        except CheckError:
            pass
"""


@pytest.mark.parametrize("engine", ["directory", "files", "redis"])
def test_two_processes_that_expect_versions_lose_no_update(
    engine: str, directory: Path, request: pytest.FixtureRequest
) -> None:
    where, times, prefix = f"dir:{directory}", 150, f"test-{os.urandom(6).hex()}"
    if engine == "files":
        where = f"file:{directory}"
    elif engine == "redis":
        where = request.getfixturevalue("redis_server").url
    if engine == "directory":
        states = StateManager(state_dir=directory)
    else:
        states = connect(where, prefix=prefix, durability="os").states
    states.save_state("u", CollaborationState("u"))
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _COUNT, where, str(times), prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    errors = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        errors.append(worker.communicate(timeout=60)[1])
    assert errors == ["", ""]
    assert states.load_state("u").interaction_count == 2 * times


def test_threads_that_expect_versions_lose_no_update(managers: Callable[[], StateManager]) -> None:
    mine = managers()
    mine.save_state("u", CollaborationState("u"))
    others = [mine, mine, managers()]

    def count(states: StateManager) -> None:
        for _ in range(20):
            while True:
                state, version = states.load_versioned("u")
                state.interaction_count += 1
                try:
                    states.save_state("u", state, expected_version=version)
                    break
                except CheckError:
                    pass

    threads = [threading.Thread(target=count, args=(states,)) for states in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mine.load_state("u").interaction_count == 60


def test_an_interaction_is_recorded_in_a_state_in_one_step(states: StateManager) -> None:
    with pytest.raises(StateNotFoundError):
        states.record("u", True)
    assert states.list_users() == []
    states.save_state("u", CollaborationState("u", 0.5, target_level=4, extra={"more": 1}))
    recorded = states.record("u", True)
    assert states.record("u", success=False) == states.load_state("u")
    expected = CollaborationState("u", 0.5, target_level=4)
    expected.record(True)
    assert (recorded.trust_level, recorded.current_level) == (expected.trust_level, expected.current_level)
    expected.record(False)
    now = states.load_state("u")
    assert (now.trust_level, now.current_level) == (expected.trust_level, expected.current_level)
    assert (now.interaction_count, now.success_count, now.failure_count, now.extra) == (2, 1, 1, {"more": 1})
    with pytest.raises(ArgumentTypeError, match="success must be a bool"):
        states.record("u", 1)  # type: ignore[arg-type]
    assert states.load_state("u") == now


def test_threads_that_record_in_one_state_lose_nothing(managers: Callable[[], StateManager]) -> None:
    mine = managers()
    mine.save_state("u", CollaborationState("u"))
    threads = [
        threading.Thread(target=lambda manager=manager: [manager.record("u", True) for _ in range(25)])  # type: ignore[misc]
        for manager in (mine, mine, managers())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mine.load_state("u").interaction_count == 75


def test_what_one_worker_saves_or_deletes_the_other_sees_at_once(managers: Callable[[], StateManager]) -> None:
    one, other = managers(), managers()
    assert other.list_users() == []
    one.save_state("u", CollaborationState("u", 0.1))
    assert other.load_state("u").trust_level == 0.1
    other.save_state("u", CollaborationState("u", 0.2))
    assert one.load_state("u").trust_level == 0.2
    assert one.delete_state("u")
    assert other.list_users() == []
    assert not other.delete_state("u")


# Trust and level


@pytest.mark.parametrize(
    ("trust", "level"),
    [
        *((0.0, 1), (0.19, 1), (0.2, 1), (0.39, 1), (0.4, 2), (0.5, 2), (0.59, 2), (0.6, 3), (0.65, 3), (0.79, 3)),
        *((0.8, 4), (0.95, 4), (0.9999, 4), (1.0, 5)),
    ],
)
def test_the_level_is_a_fifth_of_trust_a_level(trust: float, level: int) -> None:
    assert level_of(trust, 5) == level
    for target in range(1, 6):
        assert level_of(trust, target) == min(level, target)


def test_a_new_state_starts_in_the_middle() -> None:
    state = CollaborationState("u")
    assert (state.trust_level, state.current_level, state.target_level) == (0.5, 2, 3)
    assert (state.interaction_count, state.success_rate, state.last_interaction) == (0, 0.0, None)
    assert level_of(state.trust_level, state.target_level) == state.current_level


@pytest.mark.parametrize("target", range(1, 6))
def test_a_new_state_does_not_start_above_its_target(target: int) -> None:
    state = CollaborationState("u", target_level=target)
    assert (state.current_level, type(state.current_level)) == (min(2, target), int)
    assert CollaborationState("u", 0.5, 4, target).current_level == 4, "what is given stays as it is given"
    assert codec(CollaborationState).decode(b'{"trust_level":0.5,"target_level":%d}' % target).current_level == min(
        2, target
    )


@pytest.mark.parametrize("target", [0, 6, -1, "x", None, True, 1.5])
def test_a_target_that_is_none_is_still_refused_where_it_is_stored(target: Any) -> None:
    with pytest.raises(CodecError) as caught:
        codec(CollaborationState).encode(CollaborationState("u", target_level=target))
    assert caught.value.path == "$.target_level"


@pytest.mark.parametrize("trust", [50, -0.1, 1.0000001, float("nan"), float("inf"), "0.5", None, True])
def test_trust_that_is_none_is_not_moved(trust: Any) -> None:
    state = CollaborationState("u", trust_level=trust)
    before = repr(state)
    with pytest.raises(CodecError) as caught:
        state.record(True)
    with pytest.raises(CodecError) as written:
        codec(CollaborationState).encode(state)
    assert str(caught.value) == str(written.value)
    assert caught.value.path == written.value.path == "$.trust_level"
    assert repr(state) == before


@given(outcomes=st.lists(st.booleans(), max_size=200), target=st.integers(1, 5))
def test_trust_moves_in_exact_steps_and_never_drifts(outcomes: list[bool], target: int) -> None:
    state, twentieths = CollaborationState("u", target_level=target), 10
    for success in outcomes:
        state.record(success)
        twentieths = min(20, max(0, twentieths + (1 if success else -2)))
        assert state.trust_level == twentieths / 20
        assert state.current_level == max(1, min(target, twentieths // 4))
    assert state.interaction_count == len(outcomes)
    assert (state.success_count, state.failure_count) == (outcomes.count(True), outcomes.count(False))
    assert state.success_rate == (outcomes.count(True) / len(outcomes) if outcomes else 0.0)


@given(trust=st.floats(0, 1), success=st.booleans())
def test_trust_stays_within_its_bounds_from_wherever_it_starts(trust: float, success: bool) -> None:
    state = CollaborationState("u", trust, target_level=5)
    state.record(success)
    expected = min(1.0, max(0.0, trust + (0.05 if success else -0.1)))
    assert 0.0 <= state.trust_level <= 1.0
    assert state.trust_level == pytest.approx(expected, abs=1e-8)


def test_recording_notes_when() -> None:
    state, before = CollaborationState("u"), datetime.now(UTC)
    state.record(True)
    assert state.last_interaction is not None
    assert before <= state.last_interaction <= datetime.now(UTC)
    state.record(False, datetime(2025, 1, 1))  # noqa: DTZ001 - the documented form
    assert state.last_interaction == datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("success", [1, "yes", None])
def test_recording_what_is_no_outcome_changes_nothing(success: Any) -> None:
    state = CollaborationState("u")
    with pytest.raises(ArgumentTypeError) as caught:
        state.record(success)
    assert caught.value.argument == "success"
    assert (state.trust_level, state.interaction_count) == (0.5, 0)


@given(
    state=st.builds(
        CollaborationState,
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
        st.floats(0, 1),
        st.integers(1, 5),
        st.integers(1, 5),
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**63 - 1),
        st.none() | st.datetimes(timezones=st.just(UTC)),
        st.datetimes(timezones=st.just(UTC)),
        extra=st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])).map("x".__add__),
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False),
            max_size=3,
        ),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_state_that_is_allowed_goes_round(fresh: Fresh, state: CollaborationState) -> None:
    states = fresh().open().states
    states.save_state(state.user_id, state)
    assert states.load_state(state.user_id) == state


# The documented directory


def test_the_file_is_the_documented_form_exactly(directory: Path) -> None:
    StateManager(state_dir=directory).save_state("user_123", the_state())
    text = (directory / "user_123.json").read_text()
    assert json.loads(text) == DOCUMENTED
    assert list(json.loads(text)) == list(DOCUMENTED)


def test_the_documented_file_is_read(directory: Path) -> None:
    write(directory, "user_123.json", DOCUMENTED)
    states = StateManager(state_dir=str(directory))
    assert states.list_users() == ["user_123"]
    state = states.load_state("user_123")
    assert state == the_state()
    assert (f"{state.trust_level:.0%}", state.current_level) == ("65%", 3)


def test_the_form_of_empathy_framework_is_read_and_becomes_the_documented_one(directory: Path) -> None:
    path = write(directory, "user_123.json", OLDER)
    states = StateManager(state_dir=directory)
    state = states.load_state("user_123")
    kept = {name: OLDER[name] for name in ("trust_trajectory", "shared_context", "saved_at")}
    assert state == CollaborationState(
        "user_123", 0.65, 3, 3, 50, 45, 5, None, datetime(2025, 1, 1, tzinfo=UTC), extra=kept
    )
    state.record(True)
    states.save_state("user_123", state)
    saved = json.loads(path.read_text())
    assert saved.keys() == DOCUMENTED.keys() | kept.keys()
    assert (saved["interaction_count"], saved["trust_level"], saved["trust_trajectory"]) == (51, 0.7, [0.55, 0.6, 0.65])
    assert states.load_state("user_123") == state


def test_an_older_file_without_a_user_id_belongs_to_the_user_of_its_name(directory: Path) -> None:
    write(directory, "someone.json", {name: value for name, value in OLDER.items() if name != "user_id"})
    assert StateManager(state_dir=directory).load_state("someone").user_id == "someone"


@pytest.mark.parametrize("user", ["User", "A b", "é", "a~b", "~", "CON", "x" * 150, "user.", "[a]"])
def test_a_file_that_empathy_framework_put_under_a_bare_name_is_found_changed_and_deleted(
    directory: Path, user: str
) -> None:
    path = write(directory, f"{user}.json", {**OLDER, "user_id": user})
    write(directory, "zzz-another.json", OLDER)
    states = StateManager(state_dir=directory)
    assert states.list_users() == sorted([user, "zzz-another"])
    state, version = states.load_versioned(user)
    assert state.interaction_count == 50
    state.record(False)
    states.save_state(user, state, expected_version=version)
    assert json.loads(path.read_text())["interaction_count"] == 51
    assert states.list_users() == sorted([user, "zzz-another"])
    assert states.delete_state(user) is True
    assert not path.exists()
    assert states.list_users() == ["zzz-another"]


def test_a_user_with_a_file_of_both_is_listed_once_and_deleted_whole(directory: Path) -> None:
    states = StateManager(state_dir=directory)
    states.save_state("User", CollaborationState("User"))
    write(directory, "User.json", OLDER)  # by an application that still uses empathy-framework
    assert states.list_users() == ["User"]
    assert states.delete_state("User")
    assert states.list_users() == []
    with pytest.raises(StateNotFoundError):
        states.load_state("User")


@pytest.mark.parametrize("victim", ["User", "../../etc/passwd", "é", "x" * 500])
def test_nobody_reads_or_writes_another_s_state_by_the_name_of_its_file(directory: Path, victim: str) -> None:
    states, thief = StateManager(state_dir=directory), name(victim)
    assert thief != victim
    states.save_state(victim, CollaborationState(victim, 0.9))
    with pytest.raises(StateNotFoundError):
        states.load_state(thief)
    assert states.delete_state(thief) is False
    states.save_state(thief, CollaborationState(thief, 0.1), expected_version=0)
    assert states.load_state(victim).trust_level == 0.9
    assert states.load_state(thief).trust_level == 0.1
    assert states.list_users() == sorted([victim, thief])


# The directory itself


def test_a_state_that_cannot_be_stored_is_named(states: StateManager) -> None:
    with pytest.raises(CodecError) as caught:
        states.save_state("ada", CollaborationState(trust_level=1.5))
    assert (caught.value.path, caught.value.argument) == ("$.trust_level", "state")
    assert str(caught.value).startswith("state of 'ada': ")
    assert states.list_users() == []


def test_only_a_save_makes_the_directory(directory: Path) -> None:
    states = StateManager(state_dir=directory)
    assert states.list_users() == []
    with pytest.raises(FileNotFoundError):
        states.load_state("u")
    assert states.delete_state("u") is False
    with pytest.raises(CodecError):
        states.save_state("u", CollaborationState("u", 1.5))
    assert not directory.parent.exists()
    states.save_state("u", CollaborationState("u"))
    assert directory.is_dir()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_directory_and_its_files_are_for_their_owner_alone(directory: Path) -> None:
    before = os.umask(0)
    try:
        states = StateManager(state_dir=directory)
        for user in ("u", "User"):
            states.save_state(user, CollaborationState())
            states.save_state(user, CollaborationState())
    finally:
        os.umask(before)
    modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in [directory.parent, *directory.parent.rglob("*")]}
    assert modes == {path: 0o700 if Path(path).is_dir() else 0o600 for path in modes}
    assert len(modes) == 2 + 2 + 1, "two directories, two states, the lock, and nothing that was left over"


def test_other_files_are_left_alone_and_are_no_users(directory: Path) -> None:
    write(directory, "u.json", DOCUMENTED)
    for file in ("README", "u.json.bak", ".hidden.json", ".u.json.new", "u.txt"):
        write(directory, file, b"something else")
    (directory / "d.json").mkdir()
    states = StateManager(state_dir=directory)
    assert states.list_users() == ["u"]
    states.save_state("v", CollaborationState())
    for file in ("README", "u.json.bak", ".hidden.json", "u.txt"):
        assert (directory / file).read_bytes() == b"something else"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"user_id": "u", "trust_le', b"null", b"[]", b"\xff\xfe{}", b'{"a":1}x']
)
def test_a_damaged_file_is_told_with_its_name_and_is_not_overlooked(directory: Path, damage: bytes) -> None:
    path = write(directory, "u.json", damage)
    write(directory, "v.json", DOCUMENTED)
    states = StateManager(state_dir=directory)
    with pytest.raises(DamagedError) as caught:
        states.load_state("u")
    assert caught.value.path == str(path)
    assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(DamagedError):
        states.save_state("u", CollaborationState(), expected_version=0)
    assert path.read_bytes() == damage
    assert states.list_users() == ["u", "v"]
    assert states.load_state("v").trust_level == 0.65


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"trust_level": 1.01}, "$.trust_level"),
        ({"trust_level": "0.5"}, "$.trust_level"),
        ({"trust_level": None}, "$.trust_level"),
        ({"trust_level": True}, "$.trust_level"),
        ({"current_level": 6}, "$.current_level"),
        ({"target_level": 0}, "$.target_level"),
        ({"interaction_count": -1}, "$.interaction_count"),
        ({"success_count": 1.0}, "$.success_count"),
        ({"failure_count": 2**63}, "$.failure_count"),
        ({"created_at": "yesterday"}, "$.created_at"),
        ({"created_at": 1735689600}, "$.created_at"),
        ({"last_interaction": ""}, "$.last_interaction"),
        ({"user_id": 5}, "$.user_id"),
        ({"unknown": 2**64}, "$.unknown"),
    ],
)
def test_a_file_with_what_is_no_state_is_refused_with_the_place(
    directory: Path, change: dict[str, Any], path: str
) -> None:
    write(directory, "u.json", {**DOCUMENTED, **change})
    with pytest.raises(CodecError) as caught:
        StateManager(state_dir=directory).load_state("u")
    assert caught.value.path == path


@pytest.mark.parametrize("form", [DOCUMENTED, OLDER])
@pytest.mark.parametrize("trust", [1e308, -1e308, 1.5, -0.1, None, "high", [], True, 10**400])
def test_no_trust_is_too_odd_to_be_refused_properly(directory: Path, form: dict[str, Any], trust: Any) -> None:
    write(directory, "u.json", {**form, "trust_level": trust})
    with pytest.raises(CodecError) as caught:
        StateManager(state_dir=directory).load_state("u")
    assert caught.value.path == "$.trust_level"


def test_a_file_without_trust_is_refused(directory: Path) -> None:
    write(directory, "u.json", {"user_id": "u"})
    with pytest.raises(CodecError) as caught:
        StateManager(state_dir=directory).load_state("u")
    assert caught.value.path == "$.trust_level"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    target = write(tmp_path, "target.json", DOCUMENTED)
    write(directory, "v.json", DOCUMENTED)
    (directory / "u.json").symlink_to(target)
    states = StateManager(state_dir=directory)
    assert states.list_users() == ["v"]
    with pytest.raises(DamagedError) as caught:
        states.load_state("u")
    assert caught.value.path == str(directory / "u.json")
    states.save_state("u", CollaborationState("u", 0.1))
    assert json.loads(target.read_text()) == DOCUMENTED
    assert states.load_state("u").trust_level == 0.1


def test_a_directory_that_is_a_file_is_told(directory: Path) -> None:
    write(directory.parent, directory.name, b"")
    states = StateManager(state_dir=directory)
    with pytest.raises(StorageError):
        states.save_state("u", CollaborationState())
    assert directory.read_bytes() == b""


@pytest.mark.parametrize("user", ["user", "User", "ann@example.com"])
def test_loading_a_state_does_not_list_the_directory(
    directory: Path, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A directory of many users would make every load slow.
    states = StateManager(state_dir=directory)
    states.save_state(user, CollaborationState())
    listed: list[Any] = []
    monkeypatch.setattr(os, "scandir", lambda *path: listed.append(path) or iter(()))  # type: ignore[func-returns-value]
    monkeypatch.setattr(os, "listdir", lambda *path: listed.append(path) or [])  # type: ignore[func-returns-value]
    assert states.load_state(user).user_id == user
    assert not listed


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
def test_managers_that_are_gone_hold_no_descriptors(directory: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        StateManager(state_dir=directory).save_state(f"u{number}", CollaborationState())
    assert len(os.listdir("/proc/self/fd")) <= before + 2


_FORK = """
import os, sys
from empathy_kv import CheckError, CollaborationState, StateManager
states = StateManager(state_dir=sys.argv[1])
states.save_state("u", CollaborationState("u"))
child = os.fork()
for _ in range(200):
    while True:
        state, version = states.load_versioned("u")
        state.interaction_count += 1
        try:
            states.save_state("u", state, expected_version=version)
            break
        except CheckError:
            pass
if child == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), states.load_state("u").interaction_count)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_manager_that_was_forked_locks_out_its_parent(directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK, str(directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("0 400\n", "")
