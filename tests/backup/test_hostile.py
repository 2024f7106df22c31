"""What stands at a target is not believed: manifests, parts and files that somebody else made."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import snapshot

from empathy_kv import Backups, DamagedError, Store, connect
from empathy_kv.backup import archive, manifest, parts
from empathy_kv.backup.manifest import Backup, Part
from empathy_kv.backup.target import Target
from empathy_kv.backup.urls import opened
from empathy_kv.snapshot import Counts, content, dump
from empathy_kv.streams import zstd

END: Final = b'{"end":{"patterns":0,"states":0,"users":0,"interactions":0,"sha256":""}}\n'


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return opened(tmp_path / "backups", 60.0)


@pytest.fixture
def made(target: Target) -> Backup:
    return archive.write(target, snapshot(20))


def signed(document: dict[str, Any]) -> bytes:
    """Return a manifest whose SHA-256 is right: whoever can write one can do that, too."""
    document.pop("sha256", None)
    body = msgspec.json.format(msgspec.json.encode(document), indent=2).removesuffix(b"\n}") + b",\n"
    return body + b'  "sha256": "%s"\n}\n' % hashlib.sha256(body).hexdigest().encode()


def forge(target: Target, made: Backup, **changes: Any) -> None:
    path = manifest.manifest_path(made.name)
    document = msgspec.json.decode(b"".join(target.get(path, 1 << 20)))
    target.put(path, signed({**document, **changes}))


def forge_part(target: Target, made: Backup, data: bytes, **changes: Any) -> None:
    """Put other bytes in the place of the part, and what is said about them into the manifest."""
    document = msgspec.json.decode(b"".join(target.get(manifest.manifest_path(made.name), 1 << 20)))
    part = {**document["parts"][0], "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
    target.put(f"{made.name}/000000.jsonl.zst", data)
    forge(target, made, parts=[part])


def refused(target: Target, made: Backup) -> DamagedError:
    """Return what everybody is told who reads it; a store stays as it is, and so does everything else."""
    backups = Backups(str(target))
    before = set(Path(str(target)).parent.rglob("*"))
    with connect("memory:") as store:
        with pytest.raises(DamagedError) as caught:
            backups.restore(made.name, store, replace=True)
        assert content(dump(store)).counts == Counts()
    try:
        assert [str(error) for error in backups.verify(made.name)] == [str(caught.value)]
    except DamagedError as error:
        assert str(error) == str(caught.value)
    assert set(Path(str(target)).parent.rglob("*")) == before
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "",
        "000001.jsonl.zst",
        "../20250115T020000.000000Z-1a2b3c4d/000000.jsonl.zst",
        "000000.jsonl.zst/../../x",
        "C:\\x",
        "000000.jsonl.zst\0",
        "s3://bucket/x",
        "000000.jsonl.zst\n",
    ],
)
def test_a_manifest_cannot_name_what_is_not_a_part_of_its_backup(name: str, target: Target, made: Backup) -> None:
    (part,) = made.parts
    forge(target, made, parts=[{"name": name, "size": part.size, "sha256": part.sha256, "raw_size": 1, "lines": 1}])
    assert refused(target, made).path.endswith(f"{made.name}.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "20250115T020000.000000Z-1a2b3c4d"},
        {"name": "../x"},
        {"format": "another"},
        {"format": None},
        {"version": 0},
        {"version": "1"},
        {"version": None},
        {"parts": []},
        {"parts": None},
        {"parts": {}},
        {"parts": [None]},
        {"counts": {"patterns": 1, "states": 0, "users": 0, "interactions": 0}},
        {"counts": {}},
        {"created_at": "2025-01-15T02:00:00"},
        {"finished_at": "yesterday"},
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(changes: dict[str, Any], target: Target, made: Backup) -> None:
    forge(target, made, **changes)
    assert refused(target, made).path.endswith(f"{made.name}.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0},
        {"size": -1},
        {"size": 1 << 40},
        {"raw_size": 1 << 40},
        {"lines": 1 << 40},
        {"lines": 1.5},
        {"sha256": "A" * 64},
        {"sha256": ""},
    ],
)
def test_a_part_that_cannot_be_is_refused(changes: dict[str, Any], target: Target, made: Backup) -> None:
    forge_part(target, made, b"x", **changes)
    assert refused(target, made).path.endswith(f"{made.name}.json")


def test_a_part_that_decompresses_to_more_than_the_manifest_says_is_given_up_there(
    target: Target, made: Backup
) -> None:
    """A bomb: a hundred kilobytes that become a gigabyte."""
    compressor = zstd().ZstdCompressor()
    zeros = bytes(1 << 20)
    bomb = b"".join(compressor.compress(zeros) for _ in range(1024)) + compressor.flush()
    assert len(bomb) < 200_000
    forge_part(target, made, bomb, raw_size=3_000_000, lines=1)
    tracemalloc.start()
    try:
        assert "decompresses to more than 3,000,000 bytes" in str(refused(target, made))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_line_without_an_end_is_not_collected(target: Target, made: Backup) -> None:
    compressor = zstd().ZstdCompressor()
    zeros = bytes(1 << 20)
    bomb = b"".join(compressor.compress(zeros) for _ in range(100)) + compressor.flush()
    forge_part(target, made, bomb, raw_size=100 << 20, lines=1)
    assert "a line of more than" in str(refused(target, made))


def test_a_frame_that_asks_for_much_memory_is_refused(target: Target, made: Backup) -> None:
    module = zstd()
    options = {module.CompressionParameter.window_log: 27, module.CompressionParameter.content_size_flag: 0}
    compressor = module.ZstdCompressor(options=options)
    frame = compressor.compress(os.urandom(1 << 20).hex().encode() + b"\n" + END) + compressor.flush()
    forge_part(target, made, frame, raw_size=(2 << 20) + 1 + len(END), lines=2)
    assert "too much memory" in str(refused(target, made))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (zstd().compress(END) + zstd().compress(END), 1),
        (zstd().compress(END) + b"\0", 1),
        (zstd().compress(END)[:-1], 1),
        (zstd().compress(END.rstrip()), 1),
        (zstd().compress(END), 2),
        (END, 1),
        (b"\x28\xb5\x2f\xfd", 1),
    ],
)
def test_a_part_is_one_frame_of_whole_lines(data: bytes, lines: int, target: Target, made: Backup) -> None:
    forge_part(target, made, data, raw_size=len(END), lines=lines)
    assert refused(target, made).path.endswith("/000000.jsonl.zst")


def test_lines_that_are_no_snapshot_change_no_store(target: Target, made: Backup) -> None:
    forge_part(target, made, zstd().compress(END), raw_size=len(END), lines=1)
    forge(target, made, counts={"patterns": 0, "states": 0, "users": 0, "interactions": 0})
    with connect("memory:") as store, pytest.raises(ValueError, match=r"header|format"):
        Backups(str(target)).restore(made.name, store)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_manifest_or_a_typed_error(data: bytes) -> None:
    for each in (data, data + b'  "sha256": "%s"\n}\n' % hashlib.sha256(data).hexdigest().encode()):
        with pytest.raises(DamagedError):
            manifest.decode("20250115T020000.000000Z-1a2b3c4d", each, "here")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_document_is_a_manifest_or_a_typed_error(value: Any) -> None:
    body = msgspec.json.format(msgspec.json.encode({"parts": value, "version": value}), indent=2)
    body = body.removesuffix(b"\n}") + b",\n"
    data = body + b'  "sha256": "%s"\n}\n' % hashlib.sha256(body).hexdigest().encode()
    with pytest.raises(DamagedError):
        manifest.decode("20250115T020000.000000Z-1a2b3c4d", data, "here")


@given(st.binary(max_size=300), st.integers(1, 1000), st.integers(1, 20))
def test_any_bytes_are_a_part_or_a_typed_error(data: bytes, raw_size: int, lines: int) -> None:
    part = Part(len(data), hashlib.sha256(data).hexdigest(), raw_size, lines)
    with pytest.raises(DamagedError):
        list(parts.unpack([data], part, "here"))


def test_a_manifest_that_is_too_large_is_not_read(
    target: Target, made: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "LARGEST", 100)
    assert "more than 100 bytes" in str(refused(target, made))


@pytest.fixture
def store() -> Store:
    return connect("memory:")


def test_links_are_not_followed(target: Target, made: Backup, tmp_path: Path, store: Store) -> None:
    directory = tmp_path / "backups"
    (path,) = (directory / path for path in made.paths())
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    assert "no regular file" in str(refused(target, made))
    path.unlink()
    outside.rename(path)
    whole = directory / made.name
    whole.rename(outside)
    whole.symlink_to(outside)
    assert "no directory" in str(refused(target, made))
    with pytest.raises(DamagedError):
        target.delete(list(made.paths()))
    assert (outside / path.name).exists()
    whole.unlink()
    outside.rename(whole)
    listing = directory / f"{made.name}.json"
    listing.rename(outside)
    listing.symlink_to(outside)
    assert "no regular file" in str(refused(target, made))
    (listed,) = archive.listed(target)
    assert isinstance(listed.problem, DamagedError)


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(target: Target, made: Backup, tmp_path: Path) -> None:
    (path,) = (tmp_path / "backups" / path for path in made.paths())
    path.unlink()
    os.mkfifo(path)
    assert "no regular file" in str(refused(target, made))


def test_backups_are_for_their_owner_alone(made: Backup, tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    assert directory.stat().st_mode & 0o077 == 0
    for path in directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
