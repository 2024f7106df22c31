"""What every engine does, as tests that an engine's own test file inherits::

    from empathy_kv.testing.conformance import KVConformance

    class TestMine(KVConformance):
        reopens = True
        shares = True

        def open(self, place):
            return MyKV(place)

`place` is a fixture: a fresh directory (pytest's `tmp_path`), unless the class overrides it. No test knows how an
engine keeps what it holds: a write is checked by other operations than its own, by `keys`, and after opening again.
"""

from __future__ import annotations

from empathy_kv.testing.conformance.batches import Atomicity, Several, Tokens
from empathy_kv.testing.conformance.lifetime import Aliasing, Closing, Reopening, Sharing
from empathy_kv.testing.conformance.names import HostileTexts, Keys, Limits, Namespaces
from empathy_kv.testing.conformance.structures import Hashes, Kinds, SortedSets
from empathy_kv.testing.conformance.values import Counters, Expiry, Values, Versions

__all__ = ["KVConformance"]


class KVConformance(
    Values,
    Expiry,
    Versions,
    Counters,
    Hashes,
    SortedSets,
    Kinds,
    Atomicity,
    Several,
    Tokens,
    Namespaces,
    HostileTexts,
    Keys,
    Limits,
    Aliasing,
    Closing,
    Reopening,
    Sharing,
):
    """All that every engine does. A subclass, named `Test...`, overrides `open`; and where it differs from memory,
    `reopens`, `shares` and the fixture `place`."""
