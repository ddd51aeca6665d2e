"""Files of released Go modules, such as CRDs, through the go command; each has a pinned hash."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.clients.conftest import cache_directory

SECONDS = 120

# What `go mod download -json MODULE@VERSION` gives as Sum: the module's files cannot change.
MODULES = {
    "sigs.k8s.io/gateway-api": ("v1.6.1", "h1:mock6phZbI6rvZerwrVNk7hVNymQgHo+6sJ81Ia7ftY="),
    "github.com/envoyproxy/gateway": ("v1.9.1", "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY="),
    "istio.io/api": ("v1.31.1", "h1:5Yb5ihcz4YQsCkciusK7DnFpBMwRB6EFWeUKH1Atuyk="),
    "github.com/cert-manager/cert-manager": (
        "v1.21.2",
        "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
    ),
}


@functools.cache
def directory(module: str) -> Path:
    """Where the pinned version's files are; they are downloaded once per machine."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed here, so the CRDs cannot be had")
    version, wanted = MODULES[module]
    environ = {**os.environ, "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local"}
    environ["GOMODCACHE"] = str(cache_directory("go-modules"))
    with tempfile.TemporaryDirectory() as outside:  # of any module
        done = subprocess.run(
            [go, "mod", "download", "-json", f"{module}@{version}"],
            cwd=outside,
            env=environ,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    found = json.loads(done.stdout or "{}")
    assert "Dir" in found, found.get("Error") or done.stderr
    assert found["Sum"] == wanted, f"{module}@{version} is not what was pinned: {found['Sum']}"
    return Path(found["Dir"])
