"""The fixture that pytest knows wherever this package is installed: `empathy_store`."""

# pytest imports this module in every session of every user, so what takes time is imported by the fixture.

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from empathy_kv.store import Store


@pytest.fixture
def empathy_store() -> Iterator[Store]:
    """Give an empty store on a fakeredis server of its own, closed when the test is over."""
    import fakeredis

    import empathy_kv

    with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client, empathy_kv.connect(client) as store:
        client.ping()  # Threads that connect first at the same moment get databases of their own from it.
        yield store
