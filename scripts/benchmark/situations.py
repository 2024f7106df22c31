"""Patterns and questions as agents have them.

They have four context keys with one of 50 values each, and some of 200 tags, of which a question asks for three.
"Skewed" draws them by Zipf's law, as real tags are: the second is half as common as the first, the third a third, and
so on.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from documents import pattern

from empathy_kv import Pattern


def _chooser(dice: random.Random, count: int, skewed: bool) -> Callable[[], int]:
    weights = list(itertools.accumulate(1 / rank if skewed else 1.0 for rank in range(1, count + 1)))
    return lambda: dice.choices(range(count), cum_weights=weights)[0]


class Situations:
    """Contexts and tags, one after the other."""

    def __init__(self, seed: int, skewed: bool) -> None:
        self.dice = random.Random(seed)
        self._value = _chooser(self.dice, 50, skewed)
        self._tag = _chooser(self.dice, 200, skewed)

    def context(self) -> dict[str, Any]:
        return {key: f"{key} {self._value()}" for key in ("task", "language", "framework", "domain")}

    def tags(self, count: int) -> list[str]:
        tags: dict[str, None] = {}
        while len(tags) < count:
            tags[f"tag {self._tag()}"] = None
        return list(tags)

    def question(self) -> dict[str, Any]:
        return {**self.context(), "tags": self.tags(3)}


def drawn(count: int, skewed: bool) -> Iterator[Pattern]:
    """Yield patterns of such situations, some of which were used."""
    situations = Situations(1, skewed)
    dice = situations.dice
    for number in range(count):
        made = pattern(number)
        made.context = situations.context()
        made.tags = situations.tags(dice.randint(1, 5))
        made.usage_count = dice.randrange(30)
        made.success_count = dice.randint(0, made.usage_count)
        made.failure_count = made.usage_count - made.success_count
        made.confidence = dice.random()
        yield made
