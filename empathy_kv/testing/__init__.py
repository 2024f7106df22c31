"""For users: the suite that an engine passes, strategies and a state machine for Hypothesis, a fixture for pytest.

The extra `testing` brings what it needs; nothing of the package imports this room. An engine of your own is tested by
inheriting `empathy_kv.testing.conformance.KVConformance`.
"""

from __future__ import annotations

try:
    import pytest
except ImportError:  # The strategies are of use without it.
    pass
else:
    # Here, because it must come before the module is imported; else a failure would show no values.
    pytest.register_assert_rewrite("empathy_kv.testing.conformance")
