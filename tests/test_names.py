"""What can be imported from `empathy_kv`, what that costs, and what type checkers see of it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import pydoc
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import empathy_kv

ROOT = Path(empathy_kv.__file__).parent.parent


def typed() -> dict[str, str]:
    """Return the names that type checkers see, each with its module."""
    tree = ast.parse(Path(empathy_kv.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found: dict[str, str] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        for name in node.names:
            assert name.asname is None
            assert name.name not in found
            found[name.name] = node.module
    return found


def test_all_is_sorted_and_names_what_type_checkers_see() -> None:
    assert list(empathy_kv.__all__) == sorted(set(empathy_kv.__all__))
    assert set(empathy_kv.__all__) == set(typed())


def test_the_lazy_homes_are_the_modules_that_type_checkers_see() -> None:
    for name, module in typed().items():
        assert f"empathy_kv.{empathy_kv._HOME.get(name, 'errors')}" == module, name
    assert set(empathy_kv._HOME) <= set(empathy_kv.__all__)


@pytest.mark.parametrize("name", empathy_kv.__all__)
def test_every_public_name_is_what_its_module_defines(name: str) -> None:
    value = getattr(empathy_kv, name)
    assert value is getattr(importlib.import_module(typed()[name]), name)
    assert value.__module__ == typed()[name]
    assert value.__doc__
    assert name in dir(empathy_kv)


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    for name in ("nothing", "Pattern_", "store_", "__all"):
        with pytest.raises(AttributeError, match=name):
            getattr(empathy_kv, name)


def test_the_version_is_that_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert empathy_kv.__version__ == project["version"]


@pytest.mark.parametrize("name", ["PatternLibrary", "StateManager", "MetricsCollector", "AsyncPatternLibrary"])
def test_help_and_notebooks_are_told_what_a_call_returns_and_not_the_steps_to_it(name: str) -> None:
    kind = getattr(empathy_kv, name)
    calls = [value for word, value in vars(kind).items() if inspect.isfunction(value) and not word.startswith("_")]
    assert len(calls) > 4
    for call in calls:
        assert "Steps" not in str(inspect.signature(call)), call
        assert "Steps" not in call.__annotations__["return"], call
    assert "Steps" not in pydoc.render_doc(kind)


def test_the_annotations_of_a_call_can_be_resolved() -> None:
    store = empathy_kv.connect("memory:")
    assert typing.get_type_hints(store.states.load_state)["return"] is empathy_kv.CollaborationState
    assert typing.get_type_hints(store.patterns.find_patterns)["return"] == list[empathy_kv.PatternMatch]
    assert list(inspect.signature(store.states.delete_state).parameters) == ["user_id"]


HEAVY = [
    "redis",
    "sqlite3",
    "psycopg",
    "filelock",
    "fakeredis",
    "cattrs",
    "hypothesis",
    "pytest",
    "asyncio",
    "msgspec",
    "attrs",
    "cyclopts",
    "rich",
]


def loaded(code: str) -> set[str]:
    """Return what is imported after some code ran in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_else() -> None:
    # What an installed plugin of the interpreter imports by itself is not ours: compared with a bare one.
    more = loaded("import empathy_kv") - loaded("")
    assert not more & set(HEAVY)
    assert {name for name in more if name.startswith("empathy_kv")} == {"empathy_kv"}


def test_an_engine_is_imported_only_when_its_url_is_opened(tmp_path: Path) -> None:
    bare = loaded("")
    memory = loaded("import empathy_kv; empathy_kv.connect('memory:').patterns.find_patterns({'a': 1})") - bare
    assert "empathy_kv.kv.memory" in memory
    assert not {
        name for name in memory if name.startswith(("empathy_kv.kv.files", "empathy_kv.kv.redis", "empathy_kv.sql"))
    }
    assert not memory & {"redis", "sqlite3", "psycopg", "filelock", "fakeredis", "hypothesis", "pytest"}
    files = loaded(
        "import empathy_kv; "
        f"empathy_kv.connect('file:{tmp_path}/s').states.save_state('u', empathy_kv.CollaborationState())"
    )
    assert "empathy_kv.kv.files" in files
    assert not (files - bare) & {"redis", "sqlite3", "psycopg", "fakeredis", "hypothesis"}
    assert not {name for name in files if name.startswith(("empathy_kv.kv.redis", "empathy_kv.sql"))}


def test_cattrs_is_imported_only_for_classes_and_documents_that_are_unusual() -> None:
    ours = """
import empathy_kv
store = empathy_kv.connect("memory:")
store.patterns.contribute_pattern("a", empathy_kv.Pattern("p", "a", "t", "n", context={"a": 1}))
store.patterns.find_patterns({"a": 1})
store.states.save_state("u", empathy_kv.CollaborationState())
store.states.load_state("u")
"""
    assert "cattrs" not in loaded(ours) - loaded("")
    declared = """
import dataclasses, empathy_kv
@dataclasses.dataclass
class Note:
    text: str
notes = empathy_kv.connect("memory:").collection("notes", Note)
notes.put("a", Note("a"))
notes.get("a")
"""
    assert "cattrs" not in loaded(declared) - loaded("")
    assert "cattrs" in loaded(declared.replace("text: str", "text: str | int"))


def test_records_and_errors_import_nothing_of_the_package() -> None:
    for module in ("records", "errors"):
        mine = {name for name in loaded(f"import empathy_kv.{module}") if name.startswith("empathy_kv")}
        assert mine == {"empathy_kv", f"empathy_kv.{module}"}


def test_the_waist_knows_nothing_of_the_domain() -> None:
    for module in ("kv.interface", "kv.memory", "kv.files", "kv.files.flat", "kv.redis", "kv.table"):
        mine = {name for name in loaded(f"import empathy_kv.{module}") if name.startswith("empathy_kv.")}
        assert not mine & {
            f"empathy_kv.{name}" for name in ("records", "codec", "store", "states", "metrics", "pattern_library")
        }


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(empathy_kv.__file__).parent / "py.typed").is_file()


@pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="mypy is not installed here (scripts/check brings it)"
)
def test_type_checkers_see_the_public_names_as_they_are() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            str(Path(__file__).with_name("typing_api.py")),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
