"""Bad input at the start: one sentence that names the setting, and nothing is left running."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.polling import until
from tests.support.sidecar import clean_environment, command_line, free_ports, run_command
from tests.support.world import World

METADATA = {"GCE_METADATA_HOST": "127.0.0.1:1"}
KEY = "GOOGLE_APPLICATION_CREDENTIALS"
OLD_VERSION = "5e1b9e2f/1.29.1/Clean/RELEASE/BoringSSL"
OLD_ENVOY = f"""#!/bin/sh
[ "$1" = --version ] && echo "envoy  version: {OLD_VERSION}" && exit 0
echo "Protobuf message has unknown fields" >&2
exit 1
"""
NOWHERE_TO_WRITE = "import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/proc/none']\n"
BOTH = pytest.mark.parametrize("command", ["run", "serve"])
Commanded = subprocess.CompletedProcess[str]


def start(
    home: Path, command: str, *flags: str, environ: Mapping[str, str] | None = None
) -> Commanded:
    """Start a command that must end by itself, in a home of its own."""
    return run_command(command, *flags, home=home, environ={**METADATA, **(environ or {})})


def the_sentence(done: Commanded, home: Path) -> str:
    """The one line that is no log line; asserts that the rest is as it should be."""
    assert done.returncode in (1, 2), done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("idtoken-sidecar: ")
    until(lambda: not processes_of(home), 5, "nothing is left running")
    return lines[0].removeprefix("idtoken-sidecar: ")


def processes_of(home: Path) -> list[int]:
    """The process ids of everything that was started with this HOME."""
    found, wanted = [], f"HOME={home}\0".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if wanted in content:
            found.append(int(path.parent.name))
    return found


def taken_port() -> socket.socket:
    """A port that somebody listens on."""
    return socket.create_server(("127.0.0.1", 0))


@BOTH
@pytest.mark.parametrize(
    ("is_directory", "reason"), [(False, "No such file or directory"), (True, "Is a directory")]
)
def test_missing_key_mount_is_named(
    tmp_path: Path, command: str, is_directory: bool, reason: str
) -> None:
    """Docker makes a directory of a mount whose source is absent."""
    key = tmp_path / "secrets" / "key.json"
    if is_directory:
        key.mkdir(parents=True)
    done = start(tmp_path, command, *free_ports(command), environ={KEY: str(key)})
    sentence = the_sentence(done, tmp_path)
    assert str(key) in sentence
    assert reason in sentence


def test_missing_key_mount_names_the_variable(tmp_path: Path) -> None:
    """Which is what the deployment set."""
    done = start(tmp_path, "serve", *free_ports("serve"), environ={KEY: "/absent/key.json"})
    assert KEY in the_sentence(done, tmp_path)


@pytest.mark.parametrize("port", ["70000", "http", ""])
@pytest.mark.parametrize("name", ["forward-port", "reverse-port", "admin-port", "status-port"])
def test_wrong_port_names_its_flag(tmp_path: Path, name: str, port: str) -> None:
    """Out of range, or no number."""
    done = start(tmp_path, "run", *free_ports("run"), f"--{name}={port}")
    assert f"--{name}: expected " in the_sentence(done, tmp_path)


@pytest.mark.parametrize(
    ("variable", "port"),
    [
        ("IDTOKEN_SIDECAR_STATUS_PORT", "http"),
        ("IDTOKEN_SIDECAR_LISTEN", "127.0.0.1:70000"),
        ("IDTOKEN_SIDECAR_LISTEN", "127.0.0.1:http"),
        ("IDTOKEN_SIDECAR_STATUS_PORT", "70000"),
    ],
)
def test_wrong_port_of_serve_names_its_setting(tmp_path: Path, variable: str, port: str) -> None:
    """As containers set it: by variable."""
    flag = "--" + variable.removeprefix("IDTOKEN_SIDECAR_").lower().replace("_", "-")
    ports = [one for one in free_ports("serve") if not one.startswith(flag)]
    sentence = the_sentence(start(tmp_path, "serve", *ports, environ={variable: port}), tmp_path)
    assert sentence.startswith((f"{variable}: ", f"{flag}: "))
    assert port in sentence


@pytest.mark.parametrize("flag", ["--listen", "--status-port"])
def test_taken_port_of_serve_names_its_flag(tmp_path: Path, flag: str) -> None:
    """For `run` see test_run.py."""
    with taken_port() as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        value = address if flag == "--listen" else address.partition(":")[2]
        done = start(tmp_path, "serve", *free_ports("serve"), f"{flag}={value}")
    assert the_sentence(done, tmp_path).startswith(f"{flag}: {address}")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("--listen", "--status-port"),
        ("--forward-port", "--reverse-port"),
        ("--forward-port", "--admin-port"),
        ("--status-port", "--forward-port"),
    ],
)
def test_one_port_for_two_listeners_is_named(
    world: World, tmp_path: Path, first: str, second: str
) -> None:
    """Whichever of the two it names."""
    with taken_port() as free:
        port = free.getsockname()[1]
    flags = [f"--upstream=https://{world.service_authority}", *free_ports("run")]
    flags += [f"{first}={'127.0.0.1:' if first == '--listen' else ''}{port}", f"{second}={port}"]
    sentence = the_sentence(start(tmp_path, "run", *flags), tmp_path)
    assert sentence.startswith((f"{first}: ", f"{second}: "))


@pytest.mark.parametrize("address", ["nonsense", "192.0.2.1"])
def test_address_that_is_not_ours_names_bind(tmp_path: Path, address: str) -> None:
    """RFC 5737 keeps 192.0.2.1 for documents."""
    done = start(tmp_path, "run", *free_ports("run"), f"--bind={address}")
    assert the_sentence(done, tmp_path).startswith("--bind: ")


@BOTH
@pytest.mark.parametrize("place", ["absent/x.sock", "", "x" * 120], ids=["absent", "dir", "long"])
def test_socket_path_that_cannot_be_written_is_named(
    tmp_path: Path, command: str, place: str
) -> None:
    """A volume that is not mounted, a directory, a path longer than the kernel takes."""
    listen = f"--listen=unix:{tmp_path / place}"
    done = start(tmp_path, command, *free_ports(command), listen)
    assert the_sentence(done, tmp_path).startswith(f"--listen: unix:{tmp_path / place} cannot be")


@BOTH
@pytest.mark.parametrize("place", ["absent/ready.json", ""], ids=["absent", "directory"])
def test_ready_file_that_cannot_be_written_is_named(
    tmp_path: Path, command: str, place: str
) -> None:
    """Everything that was started for it is ended."""
    path = tmp_path / place
    done = start(tmp_path, command, *free_ports(command), f"--ready-file={path}")
    assert the_sentence(done, tmp_path).startswith(f"--ready-file: {path} cannot be written")


def old_envoy(directory: Path) -> Path:
    """A program that says it is Envoy 1.29.1 and takes no configuration of ours."""
    path = directory / "old-envoy"
    path.write_text(OLD_ENVOY)
    path.chmod(0o755)
    return path


def test_envoy_too_old_for_the_configuration_is_named(tmp_path: Path) -> None:
    """With its version, and the one that is needed."""
    done = start(tmp_path, "run", *free_ports("run"), f"--envoy={old_envoy(tmp_path)}")
    sentence = the_sentence(done, tmp_path)
    assert sentence.startswith("--envoy: ")
    assert "1.29" in sentence
    assert "1.40" in sentence


def test_envoy_in_the_working_directory_is_found(tmp_path: Path) -> None:
    """As `--envoy=./old-envoy`."""
    name = old_envoy(tmp_path).name
    done = subprocess.run(
        command_line("run", *free_ports("run"), f"--envoy=./{name}"),
        cwd=tmp_path,
        env=clean_environment(tmp_path, {**METADATA, "PYTHONPATH": str(Path(__file__).parents[2])}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "1.29" in the_sentence(done, tmp_path)


def test_nowhere_to_write_is_one_sentence_that_says_what_to_mount(tmp_path: Path) -> None:
    """A read-only root file system without a tmpfs."""
    (tmp_path / "sitecustomize.py").write_text(NOWHERE_TO_WRITE)
    environ = {"PYTHONPATH": str(tmp_path)}
    done = start(tmp_path, "run", *free_ports("run"), environ=environ)
    assert "mount a tmpfs at /tmp" in the_sentence(done, tmp_path)
