"""A backup on every kind of target: listed whole or not at all, read back as it was, and damage is found and named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from services import KINDS
from sources import COUNTS, snapshot

from empathy_kv.backup import archive, manifest
from empathy_kv.backup.target import Target
from empathy_kv.errors import BackupNotFoundError, DamagedError, StorageError
from empathy_kv.snapshot import Counts

pytestmark = [pytest.mark.usefixtures("small"), pytest.mark.parametrize("kind", KINDS)]

NOBODY = timedelta(seconds=-3600)
"""An age that everything has."""


def everything(target: Target) -> dict[str, bytes]:
    """Return all that is at a target."""
    files, names = target.objects()
    found = files + [each for name in names for each in target.below(name)]
    return {each.path: b"".join(target.get(each.path, 1 << 30)) for each in found}


def problems(target: Target, name: str) -> list[DamagedError]:
    found = archive.problems(target, archive.find(target, name))
    return [problem for problem in found if problem is not None]


def test_what_was_written_is_listed_and_read_back(target: Target) -> None:
    before = datetime.now(UTC)
    written = archive.write(target, snapshot(200))
    assert len(written.parts) > 2
    assert archive.listed(target) == [written]
    assert archive.find(target, written.name) == written
    assert list(archive.lines(target, written)) == list(snapshot(200))
    assert problems(target, written.name) == []
    assert before <= written.created_at <= written.finished_at <= datetime.now(UTC)
    assert written.counts == Counts(**COUNTS)
    assert written.lines == 202
    assert written.raw_size == sum(len(line) + 1 for line in snapshot(200))
    assert written.size == sum(len(data) for path, data in everything(target).items() if path.endswith(".zst"))
    assert set(everything(target)) == {manifest.manifest_path(written.name), *written.paths()}


def test_a_target_that_nobody_used_has_no_backups(target: Target) -> None:
    assert archive.listed(target) == []
    assert archive.leftovers(target, NOBODY) == []
    with pytest.raises(BackupNotFoundError) as caught:
        archive.find(target, "20250115T020000.000000Z-1a2b3c4d")
    assert caught.value.name == "20250115T020000.000000Z-1a2b3c4d"


def test_names_sort_by_time_and_are_never_equal(target: Target) -> None:
    written = [archive.write(target, snapshot(2, seed)) for seed in range(8)]  # More than a page of a list.
    assert archive.listed(target) == written
    at = datetime(2025, 1, 15, 2, tzinfo=UTC)
    assert len({manifest.new_name(at) for _ in range(100)}) == 100
    assert {manifest.begun(manifest.new_name(at)) for _ in range(5)} == {at}
    assert re.fullmatch(r"20250115T020000\.000000Z-[0-9a-f]{8}", manifest.new_name(at))
    assert archive.leftovers(target, NOBODY) == []


def test_a_source_that_fails_leaves_nothing(target: Target) -> None:
    def failing() -> Iterator[bytes]:
        yield from list(snapshot(200))[:150]
        raise StorageError("the disk of the store broke")

    with pytest.raises(StorageError, match="broke"):
        archive.write(target, failing())
    assert everything(target) == {}


def test_a_source_that_ends_too_early_makes_no_backup(target: Target) -> None:
    with pytest.raises(DamagedError, match="cut before its end"):
        archive.write(target, list(snapshot(200))[:-1])
    with pytest.raises(DamagedError, match="cut before its end"):
        archive.write(target, [])
    assert everything(target) == {}


def test_a_part_that_vanishes_meanwhile_makes_no_backup(target: Target) -> None:
    """As when a machine slept for so long that its backup was taken for dead."""

    def slow() -> Iterator[bytes]:
        yield from snapshot(200)
        for paths in archive.leftovers(target, NOBODY):
            target.delete(paths)

    with pytest.raises(DamagedError, match="before the backup was finished"):
        archive.write(target, slow())
    assert everything(target) == {}


def test_a_changed_byte_in_any_object_is_found_and_named(target: Target) -> None:
    written = archive.write(target, snapshot(80))
    for path, data in everything(target).items():
        for place in (0, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1):
            target.put(path, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert named(target, written.name) == path, place
        target.put(path, data)
    assert problems(target, written.name) == []


def test_an_object_that_is_cut_longer_or_gone_is_found_and_named(target: Target) -> None:
    written = archive.write(target, snapshot(80))
    for path, data in everything(target).items():
        for content in (b"", data[: len(data) // 2], data[:-1], data + b"\0", data + data):
            target.put(path, content)
            assert named(target, written.name) == path
        if path.endswith(".zst"):
            target.delete([path])
            assert named(target, written.name) == path
        target.put(path, data)
    assert problems(target, written.name) == []


def named(target: Target, name: str) -> str | None:
    """Return which object is said to be damaged by all who read it."""
    (listed,) = archive.listed(target)
    if listed.problem is not None:
        assert isinstance(listed.problem, DamagedError)
        with pytest.raises(DamagedError):
            archive.find(target, name)
        return listed.problem.path.removeprefix(f"{target!r}/")
    (problem,) = problems(target, name)
    with pytest.raises(DamagedError) as caught:
        list(archive.lines(target, listed))
    assert caught.value.path == problem.path
    assert problem.path in str(problem)
    return problem.path.removeprefix(f"{target!r}/")


def test_parts_that_are_exchanged_are_found(target: Target) -> None:
    written = archive.write(target, snapshot(80))
    first, second, *_ = written.paths()
    content = everything(target)
    target.put(first, content[second])
    target.put(second, content[first])
    assert [problem.path for problem in problems(target, written.name)] == [
        f"{target!r}/{first}",
        f"{target!r}/{second}",
    ]


def test_several_damages_are_all_named(target: Target) -> None:
    written = archive.write(target, snapshot(80))
    paths = list(written.paths())
    for path in paths:
        target.put(path, b"x")
    assert [problem.path for problem in problems(target, written.name)] == [f"{target!r}/{path}" for path in paths]


def test_what_is_not_named_as_ours_is_left_alone(target: Target) -> None:
    foreign = ["notes.txt", "README.json", "20251315T020000.000000Z-1a2b3c4d.json", "other/000000.jsonl.zst"]
    for path in foreign:
        target.put(path, b"mine")
    written = archive.write(target, snapshot(5))
    assert archive.listed(target) == [written]
    assert archive.leftovers(target, NOBODY) == []
    archive.remove(target, written)
    assert set(everything(target)) == set(foreign)


def test_a_foreign_object_in_the_place_of_a_backup_is_named(target: Target) -> None:
    written = archive.write(target, snapshot(5))
    target.put(f"{written.name}/999999.jsonl.zst", b"?")
    (problem,) = problems(target, written.name)
    assert problem.path == f"{target!r}/{written.name}/999999.jsonl.zst"


def test_a_backup_that_is_removed_is_no_longer_listed_before_the_rest_goes(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (archive.write(target, snapshot(80, seed)) for seed in (1, 2))
    deleted: list[list[str]] = []
    delete = target.delete
    monkeypatch.setattr(target, "delete", lambda paths: (deleted.append(list(paths)), delete(paths)))
    archive.remove(target, first)
    assert deleted == [[manifest.manifest_path(first.name)], list(first.paths())]
    assert archive.listed(target) == [second]
    assert problems(target, second.name) == []
    archive.remove(target, first)  # Again is no error.
    assert set(everything(target)) == {manifest.manifest_path(second.name), *second.paths()}


def test_what_dead_backups_left_is_found_when_it_is_old_enough(target: Target) -> None:
    dead, alive = (archive.write(target, snapshot(80, seed)) for seed in (1, 2))
    target.delete([manifest.manifest_path(dead.name)])
    assert archive.leftovers(target, timedelta(hours=1)) == []  # It may be one that is being made.
    assert archive.leftovers(target, NOBODY) == [list(dead.paths())]
    for paths in archive.leftovers(target, NOBODY):
        target.delete(paths)
    assert set(everything(target)) == {manifest.manifest_path(alive.name), *alive.paths()}
