"""A Go module proxy with a private module, as a plain function from path to answer.

The protocol is that of `go help goproxy`; zips follow golang.org/x/mod/zip: every file below
`module@version/`, no directories.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Response = tuple[int, dict[str, str], bytes]
PUBLISHED = "2026-01-02T03:04:05Z"
ZIP_DATE = (2026, 1, 2, 3, 4, 4)  # fixed, so that the module's hash never changes


@dataclass(frozen=True)
class Module:
    """One version of one Go module; `files` are paths relative to the module's root."""

    path: str
    version: str
    files: Mapping[str, str]

    @property
    def go_mod(self) -> bytes:
        """The text of its go.mod."""
        return self.files["go.mod"].encode()

    @property
    def info(self) -> bytes:
        """The `.info` document."""
        return json.dumps({"Version": self.version, "Time": PUBLISHED}).encode()

    def zip(self) -> bytes:
        """The module zip, the same bytes every time."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in sorted(self.files.items()):
                entry = zipfile.ZipInfo(f"{self.path}@{self.version}/{name}", ZIP_DATE)
                archive.writestr(entry, text)
        return buffer.getvalue()


GREET = Module(
    "example.com/private/greet",
    "v1.2.3",
    {
        "go.mod": "module example.com/private/greet\n\ngo 1.21\n",
        "greet.go": (
            "// Package greet is private: only a verified caller may download it.\n"
            "package greet\n\n"
            "// Hello says who was greeted.\n"
            'func Hello(name string) string { return "Hello, " + name + "!" }\n'
        ),
    },
)
GREETING = "Hello, sidecar!"  # what the program of `write_program` prints


class ModuleServer:
    """The GOPROXY protocol over a fixed set of modules; `module_response` is the handler."""

    def __init__(self, modules: Sequence[Module] = (GREET,)) -> None:
        self._files: dict[str, tuple[str, bytes]] = {}
        for module in modules:
            self._publish(module)

    def _publish(self, module: Module) -> None:
        base = f"/{_escape(module.path)}"
        stem = f"{base}/@v/{_escape(module.version)}"
        listed = self._files.get(f"{base}/@v/list", ("", b""))[1]
        self._files |= {
            f"{base}/@v/list": ("text/plain", listed + f"{module.version}\n".encode()),
            f"{base}/@latest": ("application/json", module.info),
            f"{stem}.info": ("application/json", module.info),
            f"{stem}.mod": ("text/plain", module.go_mod),
            f"{stem}.zip": ("application/zip", module.zip()),
        }

    def module_response(self, path: str) -> Response:
        """Answer one GET; 404 for what is not served, as the go command expects."""
        found = self._files.get(path.partition("?")[0])
        if found is None:
            return 404, {"content-type": "text/plain"}, b"not found: unknown module or version\n"
        kind, body = found
        return 200, {"content-type": kind}, body


def module_response(path: str) -> Response:
    """Answer one GET for `example.com/private/greet v1.2.3`."""
    return _DEFAULT.module_response(path)


def write_program(directory: Path, module: Module = GREET) -> Path:
    """Write a main package that needs the private module; `go build` or `go run` it there."""
    directory.mkdir(parents=True, exist_ok=True)
    requirement = f"require {module.path} {module.version}"
    (directory / "go.mod").write_text(f"module example.com/app\n\ngo 1.21\n\n{requirement}\n")
    (directory / "main.go").write_text(
        f'package main\n\nimport (\n\t"fmt"\n\n\t"{module.path}"\n)\n\n'
        'func main() { fmt.Println(greet.Hello("sidecar")) }\n'
    )
    return directory


def go_environment(goproxy: str, scratch: Path) -> dict[str, str]:
    """What to add to the environment so that go uses only this proxy and keeps out of $HOME.

    The toolchain's own checks of public modules are switched off: the module is private.
    """
    return {
        "GOPROXY": goproxy,
        "GOSUMDB": "off",
        "GOFLAGS": "-mod=mod -modcacherw",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOPATH": str(scratch / "gopath"),
        "GOMODCACHE": str(scratch / "modcache"),
    }


def _escape(text: str) -> str:
    """Upper case as `!lower` (golang.org/x/mod/module, EscapePath)."""
    return "".join(f"!{one.lower()}" if one.isupper() else one for one in text)


_DEFAULT = ModuleServer()
