"""Hypothesis settings for all property tests."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine is slow, not wrong; the test's own timeout catches what hangs.
settings.register_profile("tde", deadline=None)
settings.load_profile("tde")
