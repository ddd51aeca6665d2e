"""`idtoken-sidecar exec -- CMD`: the sidecar around one command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ext_authz.standins.private_app import HELLO
from tests.clients.conftest import find_program
from tests.support.polling import until
from tests.support.processes import children_of, wait_gone
from tests.support.sidecar import clean_environment, command_line, free_ports
from tests.support.world import World

SECONDS = 30
VARIABLES = ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "SIDECAR_URL")
SHOW = f"import json, os; print(json.dumps({{n: os.environ.get(n) for n in {VARIABLES!r}}}))"
# Says which signal came, and ends with 7.
WAIT = """
import pathlib, signal, sys
def told(number, frame):
    pathlib.Path(sys.argv[1]).write_text(signal.Signals(number).name)
    sys.exit(7)
for name in sys.argv[3:]:
    signal.signal(signal.Signals[name], told)
pathlib.Path(sys.argv[2]).touch()
while True:
    signal.pause()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts `exec` around a command."""
    config = tmp_path / "sidecar.yaml"
    config.write_text(world.config())
    started: list[subprocess.Popen[str]] = []

    def begin(*command: str, flags: tuple[str, ...] = (), **environ: str) -> subprocess.Popen[str]:
        fixed = [f"--config={config}", *free_ports("exec"), *flags]
        process = subprocess.Popen(
            command_line("exec", *fixed, "--", *command),
            env=clean_environment(tmp_path, {**world.google.environment(), **environ}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for its end; give exit status, stdout and stderr."""
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def test_command_finds_the_proxy_in_its_environment(start: Start) -> None:
    """Upper and lower case, with the metadata server around it."""
    status, out, err = finish(start(sys.executable, "-c", SHOW))
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["HTTP_PROXY"] == found["http_proxy"]
    assert found["HTTP_PROXY"].startswith("http://127.0.0.1:")
    assert found["NO_PROXY"] == found["no_proxy"]
    assert {"169.254.169.254", "metadata.google.internal"} <= set(found["NO_PROXY"].split(","))
    assert found["SIDECAR_URL"] is None


def test_command_finds_the_reverse_proxy(world: World, start: Start) -> None:
    """Under SIDECAR_URL, when there is an upstream."""
    flags = (f"--upstream=https://{world.service_authority}",)
    _, out, _ = finish(start(sys.executable, "-c", SHOW, flags=flags))
    assert json.loads(out)["SIDECAR_URL"].startswith("http://127.0.0.1:")


def test_own_no_proxy_is_kept(start: Start) -> None:
    """What was excepted stays so."""
    _, out, _ = finish(start(sys.executable, "-c", SHOW, NO_PROXY="own.example"))
    assert json.loads(out)["NO_PROXY"].split(",")[0] == "own.example"


def test_command_reaches_the_private_service(world: World, start: Start) -> None:
    """And stdout holds what the command wrote, and nothing else."""
    curl = find_program("curl")
    status, out, err = finish(start(curl, "--silent", "--show-error", world.service_url))
    assert (status, out, err) == (0, f"{HELLO}\n", "")


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_status_is_the_commands(start: Start, code: int) -> None:
    """Whatever it is."""
    assert finish(start("sh", "-c", f"exit {code}"))[0] == code


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV"])
def test_death_by_signal_is_128_and_the_signal(start: Start, name: str) -> None:
    """As a shell says it."""
    number = signal.Signals[f"SIG{name}"]
    status, _, _ = finish(start("sh", "-c", f"ulimit -c 0; kill -{name} $$"))
    assert status == 128 + number


def test_unknown_command_is_127_and_a_sentence(start: Start) -> None:
    """Naming it."""
    status, out, err = finish(start("no-such-program"))
    assert (status, out) == (127, "")
    assert err == "idtoken-sidecar: exec: there is no program 'no-such-program'\n"


def test_file_that_is_no_program_is_126(start: Start, tmp_path: Path) -> None:
    """As a shell says it."""
    (tmp_path / "text").write_text("no program")
    status, _, err = finish(start(str(tmp_path / "text")))
    assert status == 126
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT"])
def test_signals_are_passed_on(start: Start, tmp_path: Path, name: str) -> None:
    """The command decides what they mean; its exit status counts."""
    told, ready = tmp_path / "told", tmp_path / "ready"
    process = start(sys.executable, "-c", WAIT, str(told), str(ready), name)
    until(ready.exists, SECONDS, "the command runs")
    process.send_signal(signal.Signals[name])
    status, _, err = finish(process)
    assert (status, told.read_text(), err) == (7, name, "")


def test_nothing_is_left_running(start: Start, tmp_path: Path) -> None:
    """Neither Envoy nor the command."""
    ready = tmp_path / "ready"
    process = start(sys.executable, "-c", WAIT, str(tmp_path / "told"), str(ready), "SIGTERM")
    until(ready.exists, SECONDS, "the command runs")
    pids = children_of(process.pid)
    assert len(pids) == 2
    process.terminate()
    finish(process)
    for pid in pids:
        wait_gone(pid)


def test_stdin_is_the_commands(world: World, tmp_path: Path) -> None:
    """A pipeline works through exec."""
    config = tmp_path / "sidecar.yaml"
    config.write_text(world.config())
    done = subprocess.run(
        command_line("exec", f"--config={config}", *free_ports("exec"), "--", "cat"),
        env=clean_environment(tmp_path, world.google.environment()),
        input="through\n",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "through\n", "")
