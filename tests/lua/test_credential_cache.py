"""Runs the plain Lua tests of the script that runs inside Envoy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "envoy" / "credential_cache.lua"
MAX_LINES = 200


@pytest.mark.parametrize("interpreter", ["luajit", "lua5.1"])
def test_plain_lua_tests(interpreter: str) -> None:
    """Envoy runs LuaJIT, which is Lua 5.1 with additions; neither may be needed by the tests."""
    program = shutil.which(interpreter)
    if program is None:
        pytest.skip(f"{interpreter} is not installed")
    tests = HERE / "credential_cache_test.lua"
    done = subprocess.run(
        [program, str(tests), str(SCRIPT), str(HERE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_script_stays_small() -> None:
    """It is read by everybody who wants to know where tokens go."""
    assert len(SCRIPT.read_text().splitlines()) < MAX_LINES
