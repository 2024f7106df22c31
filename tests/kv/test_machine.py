"""All engines, side by side with a model of plain dicts."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import fakeredis
import pytest
from engines import ENGINES, Engine, Place
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from empathy_kv.testing.machine import Opened, machine

SIZES: Final = {"fast": (50, 20), "default": (500, 50), "nightly": (5000, 100)}
"""How many runs, and how many steps each."""


def test_all_engines_agree_with_the_model(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue("redis_server").url
    numbers = itertools.count()

    def opened(engine: Engine) -> Callable[[], Opened]:
        def fresh() -> Opened:
            directory = tmp_path / str(next(numbers))
            place = Place(directory, url, fakeredis.FakeRedis(server=fakeredis.FakeServer()))
            return Opened(
                lambda: engine.open(place),
                reopens=engine.reopens,
                clear=lambda: shutil.rmtree(directory, ignore_errors=True),
            )

        return fresh

    names = ("memory", "files", "fakeredis", "redis")
    examples, steps = SIZES[os.environ.get("EMPATHY_KV_PROFILE") or "default"]
    run_state_machine_as_test(
        machine({name: opened(ENGINES[name]) for name in names}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            # Not `explain`, which would run a failure with all its pauses hundreds of times more.
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
