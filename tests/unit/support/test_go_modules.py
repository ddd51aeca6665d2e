"""The module proxy answers as `go help goproxy` says, and the real go command accepts it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.capture import CaptureServer
from tests.support.go_modules import (
    GREETING,
    Module,
    ModuleServer,
    go_environment,
    module_response,
    write_program,
)
from tests.support.messages import Reply, RequestHead

BASE = "/example.com/private/greet/@v/v1.2.3"


def serve_modules(head: RequestHead) -> Reply:
    status, headers, body = module_response(head.path)
    return Reply(status=status, headers=tuple(headers.items()), body=body)


def test_every_document_of_the_protocol() -> None:
    """List, latest, info, mod and zip are served, anything else is 404."""
    assert module_response("/example.com/private/greet/@v/list")[2] == b"v1.2.3\n"
    for path in ("/example.com/private/greet/@latest", f"{BASE}.info"):
        assert json.loads(module_response(path)[2])["Version"] == "v1.2.3"
    assert module_response(f"{BASE}.mod")[2].startswith(b"module example.com/private/greet\n")
    with zipfile.ZipFile(io.BytesIO(module_response(f"{BASE}.zip")[2])) as archive:
        assert archive.namelist() == [
            "example.com/private/greet@v1.2.3/go.mod",
            "example.com/private/greet@v1.2.3/greet.go",
        ]
    assert module_response("/example.com/private/other/@v/list")[0] == 404


def test_upper_case_is_escaped_and_versions_add_up() -> None:
    """`Example` is asked for as `!example`; a second version joins the list."""
    files = {"go.mod": "module example.com/Upper\n"}
    modules = [Module("example.com/Upper", version, files) for version in ("v1.0.0", "v1.1.0")]
    server = ModuleServer(modules)
    assert server.module_response("/example.com/!upper/@v/list")[2] == b"v1.0.0\nv1.1.0\n"


@pytest.mark.skipif(shutil.which("go") is None, reason="the go command is not installed")
def test_the_go_command_accepts_the_module(tmp_path: Path) -> None:
    """`go mod download` verifies the zip's form; `go list` sees the latest version."""
    program = write_program(tmp_path / "app")
    with CaptureServer(scripts={}, default=serve_modules) as server:
        environment = os.environ | go_environment(server.url, tmp_path)
        for arguments in (
            ["mod", "download", "example.com/private/greet@v1.2.3"],
            ["list", "-m", "example.com/private/greet@latest"],
        ):
            subprocess.run(["go", *arguments], cwd=program, env=environment, check=True)
        asked = {one.path for one in server.requests}
    assert {f"{BASE}.info", f"{BASE}.mod", f"{BASE}.zip"} <= asked
    assert GREETING == "Hello, sidecar!"
