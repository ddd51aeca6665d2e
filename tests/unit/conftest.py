"""Property tests are quick, repeatable and leave no files behind."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", max_examples=20, deadline=None, database=None, derandomize=True)
settings.load_profile("unit")
