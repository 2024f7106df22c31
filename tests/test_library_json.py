"""Libraries as JSON documents: read and written in pieces, compressed or not, whatever the document looks like."""

from __future__ import annotations

import builtins
import gzip
import json
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from empathy_kv import library_json
from empathy_kv.codec import codec
from empathy_kv.errors import ArgumentError, ArgumentTypeError, CodecError, MissingFileError
from empathy_kv.index import Index
from empathy_kv.pattern_library import LocalPatterns, PatternLibrary
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import Pattern
from empathy_kv.testing.records import libraries

zstd: Any
try:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    zstd = pytest.importorskip("backports.zstd")

SUFFIXES = pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zst", ".GZ"])


def everything(library: PatternLibrary) -> tuple[object, ...]:
    """Return all that a library is, to the byte."""
    encoded = [codec(Pattern).encode(pattern) for pattern in library.patterns.values()]
    return encoded, list(library.agent_contributions.items()), library.get_links()


def made(count: int, **fields: Any) -> PatternLibrary:
    library = PatternLibrary()
    library.contribute_patterns("agent", [Pattern(f"p{n}", "author", "type", "name", **fields) for n in range(count)])
    return library


def written(library: PatternLibrary) -> bytes:
    return b"".join(library_json.encode(library.snapshot()))


def read(data: bytes, size: int = 1 << 20) -> PatternLibrary:
    """Return the library of a document that comes in pieces of a size."""

    def pieces() -> Iterator[tuple[bytes, float]]:
        for end in range(size, len(data) + size, size):
            yield data[end - size : end], min(1.0, end / len(data))

    return PatternLibrary(LocalPatterns(Index.of(library_json.decode(pieces))))


def never(data: bytes) -> Any:
    raise AssertionError("it was read at once")


# Any document


@given(libraries(), st.integers(1, 400), st.sampled_from([None, 1, 4]), st.booleans(), st.booleans())
def test_a_library_is_read_from_any_document_that_has_it_in_pieces_of_any_size(
    library: PatternLibrary, size: int, indent: int | None, ordered: bool, escaped: bool
) -> None:
    document = json.loads(written(library))
    separators = (",", ":") if indent is None else None
    data = json.dumps(document, indent=indent, sort_keys=ordered, separators=separators, ensure_ascii=escaped).encode()
    found = read(data, size)
    # Not to the byte: the keys of a context may come in another order.
    assert list(found.patterns.items()) == list(library.patterns.items())
    assert everything(found)[1:] == everything(library)[1:]


@given(libraries(), st.integers(1, 400))
def test_what_is_written_is_indented_by_two_and_read_in_pieces(library: PatternLibrary, size: int) -> None:
    data = written(library)
    document = json.loads(data)
    assert data == msgspec.json.format(data, indent=2) + b"\n"
    assert document["metadata"]["pattern_count"] == len(document["patterns"]) == len(library.patterns)
    with mock.patch.object(library_json, "_at_once", never):
        assert everything(read(data, size)) == everything(library)


AWKWARD: list[dict[str, Any]] = [
    {"text": '}, {"id": 1}], "patterns": [', "patterns": [{"id": 1}, {"id": 2}]},
    {"list": [{"id": "a"}, {"id": "b", "deep": [{"id": "c"}, {"id": "d"}]}]},
    {"many": [{"id": str(n)} for n in range(60)]},
    {"quoted": '\\"}],"}', "end": ["}", "]", {}]},
    {},
]


@pytest.mark.parametrize("size", [1, 13, 500, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("before", [{}, {"note": '"patterns": [', "more": {"patterns": [{"id": 1}], "x": []}}])
@pytest.mark.parametrize("after", [{}, {"more": [{"id": 1}, {"id": 2}]}, {"agent_contributions": {"ann": ["1", "3"]}}])
def test_what_looks_like_an_end_is_none_inside_of_a_pattern(
    size: int, indent: int | None, before: dict[str, Any], after: dict[str, Any]
) -> None:
    library = PatternLibrary()
    for number, context in enumerate(AWKWARD * 3):
        library.contribute_pattern("agent", Pattern(str(number), "agent", "t", "n", context=context))
    patterns = json.loads(written(library))["patterns"]
    data = json.dumps({**before, "patterns": patterns, **after}, indent=indent).encode()
    found = read(data, size)
    assert dict(found.patterns) == dict(library.patterns)
    assert list(found.patterns) == list(library.patterns)
    contributed = {"ann": ["1", "3"]} if "agent_contributions" in after else {}
    assert {agent: ids for agent, ids in found.agent_contributions.items() if agent != "agent"} == contributed


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": [1, {"a": None}]},
        {"discovered_at": "2025-01-15T10:30:00+02:00"},
        {"discovered_at": "2025-W03-3T10:30:00"},
        {"discovered_at": "2025-01-15T10:30:00.1234567"},
        {"last_used": "2025-01-20T14:45:00.000000"},
        {"last_used": "2025-01-20"},
        {"confidence": 1},
        {"context": {"deep": [[[[[[1]]]]]]}},
        {"id": "é" * 256},
    ],
)
def test_an_unusual_pattern_among_usual_ones_is_read_as_the_codec_reads_it(change: dict[str, Any]) -> None:
    document = json.loads(written(made(5)))
    document["patterns"][3] |= change
    with mock.patch.object(library_json, "_at_once", never):
        found = read(json.dumps(document, indent=2).encode(), 300)
    expected = [codec(Pattern).structure(item) for item in document["patterns"]]
    assert list(found.patterns.values()) == expected
    # What is written again is in our own form.
    assert json.loads(written(found))["patterns"] == [codec(Pattern).unstructure(pattern) for pattern in expected]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"confidence": 1.5}, "$.patterns[3].confidence"),
        ({"last_used": "yesterday"}, "$.patterns[3].last_used"),
        ({"discovered_at": "2025-02-30T00:00:00"}, "$.patterns[3].discovered_at"),
        ({"tags": [1]}, "$.patterns[3].tags[0]"),
        ({"context": {"n": 2**63}}, "$.patterns[3].context.n"),
        ({"id": "p1"}, "$.patterns[3].id"),
        ({"id": ""}, "$.patterns[3].id"),
        ({"id": "é" * 257}, "$.patterns[3].id"),
        ({"agent_id": "", "id": "p3"}, "$.patterns[3].agent_id"),
    ],
)
@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_wrong_pattern_is_refused_with_its_place_however_it_is_read(
    change: dict[str, Any], path: str, size: int
) -> None:
    document = json.loads(written(made(6)))
    document["patterns"][3] |= change
    with pytest.raises(CodecError) as caught:
        read(json.dumps(document).encode(), size)
    assert caught.value.path == path


def test_an_agent_of_nothing_but_blanks_contributes_nothing() -> None:
    document = json.loads(written(made(3)))
    document["patterns"][1]["agent_id"] = " "
    assert len(read(json.dumps(document).encode()).patterns) == 3, "somebody else contributed it"
    document["agent_contributions"] = {}
    with pytest.raises(CodecError) as caught:
        read(json.dumps(document).encode())
    assert caught.value.path == "$.patterns[1].agent_id"


@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_that_is_cut_off_anywhere_is_no_library(indent: int | None) -> None:
    library = made(3, context={"a": [{"id": 1}, {"id": 2}]})
    data = json.dumps(json.loads(written(library)), indent=indent).encode()
    for end in range(len(data)):
        with pytest.raises(CodecError):
            read(data[:end], 97)
    for more in (b"x", b"}", b",", b"{}", b"\0"):
        with pytest.raises(CodecError):
            read(data + more, 97)


@pytest.mark.parametrize("doubled", ['"patterns": [], ', '"metadata": {"patterns": []}, "patterns": 5, '])
def test_patterns_that_stand_twice_are_those_that_json_readers_take(doubled: str) -> None:
    data = written(made(2))
    assert list(read(b"{" + doubled.encode() + data[1:], 50).patterns) == ["p0", "p1"]
    assert list(read(data.rstrip()[:-1] + b', "patterns": []}', 50).patterns) == []


# Files


@SUFFIXES
def test_a_library_comes_back_from_a_file_of_any_suffix(suffix: str, tmp_path: Path) -> None:
    library = made(3000, context={"k": "v" * 50})
    library.link_patterns("p5", "p7")
    library.record_pattern_outcome("p9", True)
    path = tmp_path / f"patterns{suffix}"
    PatternPersistence.save_to_json(library, path)
    assert everything(PatternPersistence.load_from_json(path)) == everything(library)
    assert list(tmp_path.iterdir()) == [path]
    data = path.read_bytes()
    unpack: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".zst": zstd.decompress}
    document = unpack.get(path.suffix.lower(), bytes)(data)
    assert [item["id"] for item in json.loads(document)["patterns"]] == list(library.patterns)
    if suffix != ".json":
        assert len(data) < len(document) / 10


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_is_damaged_is_an_error_that_names_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"patterns.json{suffix}"
    PatternPersistence.save_to_json(made(100), path)
    data = path.read_bytes()
    for damaged in (data[:-10], b"x" + data, data[: len(data) // 2] + b"\xff" * 40 + data[len(data) // 2 :], b""):
        path.write_bytes(damaged)
        with pytest.raises(CodecError) as caught:
            PatternPersistence.load_from_json(path)
        assert str(path) in str(caught.value)
    with pytest.raises(MissingFileError):
        PatternPersistence.load_from_json(tmp_path / f"absent{suffix}")


def test_zstd_that_is_not_installed_is_said_so_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name in ("backports", "compression", "backports.zstd"):
            raise ImportError(name)
        return found(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ArgumentError, match=r"pip install backports.zstd brings it, as the extra zstd does"):
        PatternPersistence.save_to_json(made(1), tmp_path / "patterns.json.zst")
    assert list(tmp_path.iterdir()) == []


# Progress and memory


def test_saving_and_loading_tell_how_far_they_are(tmp_path: Path) -> None:
    path = tmp_path / "patterns.json"
    library = made(2500)
    saved: list[tuple[int, int]] = []
    PatternPersistence.save_to_json(library, path, progress=lambda *told: saved.append(told))
    assert saved == [(1000, 2500), (2000, 2500), (2500, 2500)]
    loaded: list[tuple[int, int]] = []
    PatternPersistence.load_from_json(path, progress=lambda *told: loaded.append(told))
    assert loaded[-1] == (2500, 2500)
    assert len(loaded) > 3
    assert [done for done, _ in loaded] == sorted(done for done, _ in loaded)
    assert all(2000 < total < 3000 for _, total in loaded)


def test_what_is_told_may_end_it_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "patterns.json"
    PatternPersistence.save_to_json(made(1), path)
    before = path.read_bytes()

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PatternPersistence.save_to_json(made(2), path, progress=cancel)
    with pytest.raises(KeyboardInterrupt):
        PatternPersistence.load_from_json(path, progress=cancel)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    for wrong in (5, "x"):
        with pytest.raises(ArgumentTypeError):
            PatternPersistence.save_to_json(made(1), path, progress=wrong)  # type: ignore[arg-type]
        with pytest.raises(ArgumentTypeError):
            PatternPersistence.load_from_json(path, progress=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_loading_takes_little_more_memory_than_the_library_and_saving_next_to_none(suffix: str) -> None:
    library = made(10_000, context={"task": "api_call"}, description="x" * 400, tags=["a", "b"])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"patterns{suffix}"
        tracemalloc.start()
        try:
            PatternPersistence.save_to_json(library, path)
            _, saving = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            loaded = PatternPersistence.load_from_json(path)
            after, loading = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(loaded.patterns) == 10_000
    size = after - before
    assert loading - before < 1.3 * size
    assert saving < 0.5 * size


def test_a_snapshot_is_of_one_moment() -> None:
    library = made(3)
    snapshot = library.snapshot()
    library.record_pattern_outcome("p1", True)
    library.remove_pattern("p2")
    assert [held.id for held in snapshot] == ["p0", "p1", "p2"]
    assert [held.pattern().usage_count for held in snapshot] == [0, 0, 0]
