"""The tree of errors is the one that is drawn, and each error tells what it knows, across process borders too."""

from __future__ import annotations

import builtins
import concurrent.futures
import copy
import errno
import inspect
import multiprocessing
import pickle
import re
import traceback
import typing
from typing import Any

import pytest

import empathy_kv
from empathy_kv import errors
from empathy_kv.errors import EmpathyKVError
from empathy_kv.kv.operations import Token

TOKEN = Token(("a", "b/c"), "0123456789abcdef", 1, 2, 3)
SAMPLES: dict[str, Any] = {
    "argument": "user_id",
    "path": "/some/where.json",
    "limit": 512,
    "pattern_id": "é\ud800",
    "user_id": "u",
    "name": None,
    "key": "k",
    "kind": "hash",
    "expected": None,
    "actual": 7,
    "field": "f",
    "token": TOKEN,
    "timeout": 5.0,
    "errno": errno.ENOSPC,
    "id": "i1",
}


def classes() -> list[type[EmpathyKVError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EmpathyKVError)]


def drawn() -> list[tuple[str, str | None, str | None, list[str]]]:
    """Read the drawing: each class with its parent, its other parent, and the attributes beside it."""
    rows: list[tuple[str, str | None, str | None, list[str]]] = []
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").split("::", 1)[1].splitlines():
        match = re.fullmatch(r"    ((?:[│├└─ ]*[├└]── )?)(\w+)(?: \((\w+)\))?(.*)", line)
        if match is None:
            if rows and line.strip():
                break
            continue
        depth = len(match[1]) // 4
        above[depth] = match[2]
        rows.append(
            (match[2], above[depth - 1] if depth else None, match[3], re.findall(r"(?<![\w])\.(\w+)", match[4]))
        )
    return rows


def test_the_drawing_has_every_class_once_under_its_parent() -> None:
    names = [name for name, *_ in drawn()]
    assert sorted(names) == sorted(kind.__name__ for kind in classes())
    for name, parent, other, _ in drawn():
        bases = [base.__name__ for base in getattr(errors, name).__bases__]
        assert bases == [each for each in (parent or "Exception", other) if each is not None], name


def test_the_other_parent_is_a_class_of_python_that_a_caller_expects() -> None:
    for name, _, other, _ in drawn():
        if other is not None:
            assert issubclass(getattr(errors, name), vars(builtins)[other])


def test_the_attributes_that_are_drawn_are_declared_and_the_other_way_round() -> None:
    for name, _, _, attributes in drawn():
        kind = getattr(errors, name)
        own = set(typing.get_type_hints(kind)) - {"message"}
        inherited = {each for base in kind.__bases__ for each in typing.get_type_hints(base)} - {"message"}
        told = set(attributes) - {"errno"}
        assert told <= own, name
        assert own - inherited <= told, name


def make(kind: type[EmpathyKVError]) -> EmpathyKVError:
    names = set(typing.get_type_hints(kind)) - {"message"}
    if issubclass(kind, OSError):
        names.add("errno")
    return kind("it went wrong: é\n", **{name: SAMPLES[name] for name in names})


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_each_error_says_its_message_and_survives_pickling_and_copying(kind: type[EmpathyKVError]) -> None:
    error = make(kind)
    error.add_note("a note")
    copies = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for each in [error, *copies, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(copies[-1]))]:
        assert type(each) is kind
        assert str(each) == each.message == "it went wrong: é\n"
        assert each.args == ("it went wrong: é\n",)
        assert each.__notes__ == ["a note"]
        for name in typing.get_type_hints(kind):
            if name != "message":
                assert getattr(each, name) == SAMPLES[name], name
        if isinstance(each, OSError):
            assert each.errno == errno.ENOSPC
        assert "it went wrong" in "".join(traceback.format_exception(each))


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_an_error_is_raised_and_caught_as_all_that_it_is(kind: type[EmpathyKVError]) -> None:
    for parent in kind.__mro__[:-2]:
        if issubclass(parent, Exception):
            with pytest.raises(parent):
                raise make(kind)


def test_what_was_not_applied_and_what_is_unknown_are_never_one() -> None:
    for kind in classes():
        assert not (issubclass(kind, errors.NotApplied) and issubclass(kind, errors.OutcomeUnknown))


def test_a_token_that_cannot_be_used_does_not_say_that_nothing_was_applied() -> None:
    assert not issubclass(errors.TokenError, (errors.NotApplied, errors.OutcomeUnknown))


def _fail(name: str) -> None:
    raise make(getattr(errors, name))


def test_errors_cross_process_borders() -> None:
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for name in ("StateNotFoundError", "StorageError", "CheckError", "OutcomeUnknown", "CounterOverflowError"):
            with pytest.raises(getattr(errors, name)) as caught:
                pool.submit(_fail, name).result()
            assert str(caught.value) == "it went wrong: é\n"


def test_all_names_are_public_sorted_and_complete() -> None:
    assert errors.__all__ == sorted(errors.__all__)
    assert errors.__all__ == sorted(kind.__name__ for kind in classes())
    assert set(errors.__all__) <= set(empathy_kv.__all__)
    for name in errors.__all__:
        assert getattr(empathy_kv, name) is getattr(errors, name)
        assert inspect.getdoc(getattr(errors, name)), name
        assert getattr(errors, name).__module__ == "empathy_kv.errors"


def test_the_module_imports_nothing_of_the_package() -> None:
    source = inspect.getsource(errors)
    assert not re.search(r"^\s*(from|import) empathy_kv", source, re.MULTILINE)
