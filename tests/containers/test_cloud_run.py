"""deploy/cloud-run: the very YAML, its containers started as Cloud Run would; and the script."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.containers.cloud_run import RECEIVER, TAGGED, CloudRun
from tests.containers.engine import ROOT, base_images, build, docker, run

HERE = Path(__file__).parent
DEPLOY = ROOT / "deploy" / "cloud-run"
FILES = ("app-sidecar.yaml", "app-envoy-service.yaml")
TARGET = f"/?url=http://{RECEIVER}/"


@pytest.fixture(scope="module")
def images(image: str) -> dict[str, str]:
    """Build the images that the YAML names."""
    tags = {"APP_IMAGE": "idtoken-sidecar-test/app", "ENVOY_IMAGE": "idtoken-sidecar-test/envoy"}
    python = base_images().get("PYTHON_IMAGE", "python:3.13-slim-bookworm")
    app = HERE / "app"
    docker("build", "--tag", tags["APP_IMAGE"], f"--build-arg=PYTHON_IMAGE={python}", str(app))
    build(tags["ENVOY_IMAGE"], dockerfile="deploy/cloud-run/envoy.Dockerfile")
    return {**tags, "SIDECAR_IMAGE": image, "SERVICE_IMAGE": image}


@pytest.fixture(scope="module", params=FILES)
def instance(request: pytest.FixtureRequest, images: dict[str, str]) -> Iterator[CloudRun]:
    """Start one instance of each YAML."""
    file = DEPLOY / request.param
    with CloudRun(file, images, images["SIDECAR_IMAGE"]) as found:
        yield found


@pytest.mark.containers
class TestInstance:
    """In the order in which an instance lives."""

    def test_the_first_request_is_served(self, instance: CloudRun) -> None:
        assert instance.ask(TARGET) == "200 Hello from the receiving service!"

    def test_startup_probes_tell_the_truth(self, instance: CloudRun) -> None:
        assert instance.proxy_serves, "the probe passed before the proxy served"
        assert instance.started[-1] == "app"
        assert len(instance.started) == len(instance.containers)

    def test_the_metadata_server_is_refused_to_the_app(self, instance: CloudRun) -> None:
        script = (
            "import http.client\n"
            "proxy = http.client.HTTPConnection('127.0.0.1', 8000)\n"
            "proxy.request('GET', 'http://metadata.google.internal/')\n"
            "answer = proxy.getresponse()\n"
            "print(answer.status, answer.read().decode())"
        )
        answer = docker("exec", f"{instance.name}-app", "python", "-c", script)
        assert answer.startswith("403 ")
        assert "destination_forbidden" in answer

    def test_only_probes_and_the_app_are_reachable_from_outside(self, instance: CloudRun) -> None:
        script = (
            "import socket, sys\n"
            "for port in map(int, sys.argv[2:]):\n"
            "    try: socket.create_connection((sys.argv[1], port), 2)\n"
            "    except ConnectionRefusedError: print(port)\n"
        )
        ports = ("8000", "9090", "9191", "9901")
        google = f"{instance.name}-google"
        refused = docker("exec", google, "python", "-c", script, instance.address, *ports)
        assert tuple(refused.split()) == ports

    def test_after_a_while_without_cpu(self, instance: CloudRun) -> None:
        instance.freeze(frozen=True)
        time.sleep(3)
        instance.freeze(frozen=False)
        assert instance.ask(TARGET) == "200 Hello from the receiving service!"

    def test_sigterm_lets_the_app_finish(self, instance: CloudRun) -> None:
        """Two seconds after SIGTERM the app still calls out, to a name not met before."""
        answers: list[str] = []
        path = f"/?url=http://{TAGGED}/&delay=2.5"
        asking = threading.Thread(target=lambda: answers.append(instance.ask(path)))
        asking.start()
        time.sleep(0.5)
        ended = instance.stop()
        asking.join(20)
        assert answers == ["200 Hello from the receiving service!"]
        assert {status for status, _ in ended.values()} <= {0, 143}, ended


@pytest.mark.containers
def test_a_sidecar_that_cannot_start_fails_its_probe(images: dict[str, str]) -> None:
    found = CloudRun(DEPLOY / "app-sidecar.yaml", images, images["SIDECAR_IMAGE"])
    mistake = {"name": "IDTOKEN_SIDECAR_FORWARD_PORT", "value": "70000"}
    found.containers["idtoken-sidecar"]["env"].append(mistake)
    with pytest.raises(AssertionError, match="--forward-port: expected 0 to 65535, got 70000"):
        found.__enter__()


# --- the script, with a gcloud that only writes down what it is asked


@pytest.fixture
def cloud(tmp_path: Path) -> dict[str, Any]:
    """Return the environment for deploy.sh."""
    program = tmp_path / "gcloud"
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n'
        'case "$*" in *describe*) exit 1;; *replace*) cat "$4" >&2;; esac\n'
    )
    program.chmod(0o755)
    names = ("APP_IMAGE", "SIDECAR_IMAGE", "ENVOY_IMAGE", "SERVICE_IMAGE")
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PROJECT": "p",
        "REGION": "europe-west1",
        "SERVICE": "shop",
        "CALLS": "backend search",
        **{name: f"images/{name.lower()}:1" for name in names},
    }


@pytest.mark.parametrize("file", FILES)
def test_deploy_does_what_it_printed(cloud: dict[str, Any], tmp_path: Path, file: str) -> None:
    done = run("bash", "-c", f"echo y | ./deploy.sh {file}", cwd=DEPLOY, environ=cloud)
    calls = (tmp_path / "calls").read_text().splitlines()
    account = "shop-caller@p.iam.gserviceaccount.com"
    performed = [call for call in calls if "describe" not in call]
    assert performed[0].startswith("iam service-accounts create shop-caller --project p")
    for called, call in zip(("backend", "search"), performed[1:3], strict=True):
        assert call.startswith(f"run services add-iam-policy-binding {called} ")
        assert call.endswith(f"--member serviceAccount:{account} --role roles/run.invoker")
    assert performed[3].startswith("run services replace ")
    assert len(performed) == 4
    assert not re.search(r"\$\{[A-Z]", done.stdout), "something was not filled in"
    assert f"serviceAccountName: {account}" in done.stdout


def test_deploy_does_nothing_unasked(cloud: dict[str, Any], tmp_path: Path) -> None:
    command = f"echo | ./deploy.sh {FILES[0]}"
    done = run("bash", "-c", command, cwd=DEPLOY, environ=cloud, check=False)
    assert done.returncode == 1
    assert done.stdout.rstrip().endswith("Nothing was done.")
    assert "describe" in (tmp_path / "calls").read_text()
    assert "create" not in (tmp_path / "calls").read_text()


def test_deploy_names_what_is_missing(cloud: dict[str, Any]) -> None:
    cloud["SIDECAR_IMAGE"] = ""
    done = run("./deploy.sh", FILES[0], cwd=DEPLOY, environ=cloud, check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "deploy.sh: SIDECAR_IMAGE is not set; see the first lines of this script"
    ]
