"""Copies envoy/credential_cache.lua into envoy/envoy.yaml, between its two marks.

Envoy can read a script from a file, but then by a path that differs from machine to machine. With
`--check` nothing is written; the exit status is 1 when the two differ.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

ENVOY = Path(__file__).resolve().parent.parent / "envoy"
SCRIPT = ENVOY / "credential_cache.lua"
CONFIG = ENVOY / "envoy.yaml"
BEGIN = "-- >>> envoy/credential_cache.lua (edit that, then run: python tools/sync_envoy_lua.py)\n"
END = "-- <<< envoy/credential_cache.lua\n"


def synced(config: str, script: str) -> str:
    """Return the configuration with the script between its marks. Raises ValueError."""
    before, begin, rest = config.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the marks of credential_cache.lua are missing")
    indent = before[before.rfind("\n") + 1 :]
    return before + BEGIN + textwrap.indent(script, indent) + indent + END + after


def main() -> int:
    """Write, or with --check compare."""
    config = CONFIG.read_text(encoding="utf-8")
    wanted = synced(config, SCRIPT.read_text(encoding="utf-8"))
    if config == wanted:
        return 0
    if "--check" in sys.argv[1:]:
        sys.stderr.write("envoy.yaml holds another script: run python tools/sync_envoy_lua.py\n")
        return 1
    CONFIG.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
