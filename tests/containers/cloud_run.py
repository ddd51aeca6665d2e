"""Starts the containers of a Cloud Run service YAML as Cloud Run would, as far as they can tell.

One network namespace; the order of `container-dependencies`; startup probes from outside loopback,
with their periods and thresholds; limits of memory and CPU; PORT; a metadata server by its real
name; SIGTERM to all containers at once and ten seconds later SIGKILL.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from tests.containers.engine import docker, inspect, wait_until

DEPENDENCIES = "run.googleapis.com/container-dependencies"
RECEIVER = "hello-abc123-ew.a.run.app"
TAGGED = f"canary---{RECEIVER}"  # the same service by a traffic tag, with the same audience
PROXIES = ("envoy", "idtoken-sidecar")
STOP_SECONDS = 10
MAX_STARTUP_SECONDS = 240  # Cloud Run's own limit on failureThreshold * periodSeconds

_PROBE = """
import http.client, socket, sys
address, port, seconds, path = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
if not path:
    socket.create_connection((address, port), seconds).close()
else:
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    connection.request("GET", path)
    status = connection.getresponse().status
    sys.exit(not 200 <= status < 400)
"""

_CONNECT = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
"""


class ProbeFailedError(AssertionError):
    """A container did not pass its startup probe, or ended before."""


class CloudRun:
    """One instance of the service in a YAML file; a context manager."""

    def __init__(self, file: Path, images: Mapping[str, str], standin_image: str) -> None:
        values = {"SERVICE": "shop", "SERVICE_ACCOUNT": "shop-caller@p.iam.gserviceaccount.com"}
        text = Template(file.read_text(encoding="utf-8")).safe_substitute({**values, **images})
        template = yaml.safe_load(text)["spec"]["template"]
        annotations = template["metadata"]["annotations"]
        self.containers = {each["name"]: each for each in template["spec"]["containers"]}
        self.dependencies: dict[str, list[str]] = json.loads(annotations[DEPENDENCIES])
        self.name = f"idtoken-test-{os.getpid()}-{file.stem}"
        self.started: list[str] = []
        self.proxy_serves = False  # whether it did when its startup probe passed
        self._standin_image = standin_image
        self._trust = f"{self.name}-trust"

    # --- life

    def __enter__(self) -> CloudRun:
        try:
            self._start_world()
            for name in self.order():
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        label = f"--filter=label=test={self.name}"
        if names := docker("ps", "--all", "--quiet", label).split():
            docker("rm", "--force", "--volumes", *names)
        docker("volume", "rm", "--force", self._trust)
        docker("network", "rm", self.name)

    def order(self) -> list[str]:
        """Return the containers' names, each after those that it depends on."""
        found: list[str] = []
        while len(found) < len(self.containers):
            ready = [
                name
                for name in self.containers
                if name not in found and set(self.dependencies.get(name, ())) <= set(found)
            ]
            assert ready, f"the dependencies go in a circle: {self.dependencies}"
            found += ready
        return found

    def start(self, name: str) -> None:
        """Start one container and wait until its startup probe passes. Raises ProbeFailedError."""
        spec = self.containers[name]
        command = [*spec.get("command", [])[1:], *spec.get("args", [])]
        options = [f"--env={each['name']}={each['value']}" for each in spec.get("env", ())]
        options += self._limits(spec)
        if "ports" in spec:
            options.append(f"--env=PORT={spec['ports'][0]['containerPort']}")
        if "command" in spec:
            options.append(f"--entrypoint={spec['command'][0]}")
        if name in PROXIES:  # the certificate of the stand-in for a service
            options.append(f"--volume={self._trust}:/etc/ssl/certs:ro")
        options.append(f"--network=container:{self._container('instance')}")
        self._run(name, spec["image"], *options, command=command)
        self.started.append(name)
        self._pass_probe(name, spec)
        if name in PROXIES:
            self.proxy_serves = self._execute("instance", _CONNECT, "127.0.0.1", "8000")

    def stop(self) -> dict[str, tuple[int, float]]:
        """Send SIGTERM to all, SIGKILL after ten seconds; return status and seconds by name."""
        begin = time.monotonic()
        docker("kill", "--signal=TERM", *map(self._container, self.started))
        ended: dict[str, tuple[int, float]] = {}
        while len(ended) < len(self.started) and time.monotonic() - begin < STOP_SECONDS:
            for name in set(self.started) - set(ended):
                state = inspect(self._container(name))["State"]
                if not state["Running"]:
                    ended[name] = (state["ExitCode"], time.monotonic() - begin)
            time.sleep(0.1)
        for name in set(self.started) - set(ended):
            docker("kill", self._container(name))
            ended[name] = (137, STOP_SECONDS)
        return ended

    def freeze(self, *, frozen: bool) -> None:
        """Take the CPU away, as between requests, or give it back."""
        docker("pause" if frozen else "unpause", *map(self._container, self.started))

    # --- asking

    def ask(self, path: str) -> str:
        """Send the ingress container a request; return `STATUS BODY`."""
        ask = (
            "import sys, urllib.request, urllib.error\n"
            "try: answer = urllib.request.urlopen(sys.argv[1], timeout=20)\n"
            "except urllib.error.HTTPError as error: answer = error\n"
            "print(answer.status, answer.read().decode())"
        )
        spec = next(spec for spec in self.containers.values() if "ports" in spec)
        url = f"http://{self.address}:{spec['ports'][0]['containerPort']}{path}"
        return docker("exec", self._container("instance"), "python", "-c", ask, url)

    def logs(self, name: str) -> str:
        """Return what a container printed."""
        return docker("logs", self._container(name))

    @property
    def address(self) -> str:
        """The instance's address that is not loopback."""
        networks = inspect(self._container("instance"))["NetworkSettings"]["Networks"]
        address: str = networks[self.name]["IPAddress"]
        return address

    # --- parts

    def _container(self, name: str) -> str:
        return f"{self.name}-{name}"

    def _run(self, name: str, image: str, *options: str, command: list[str]) -> None:
        label = f"--label=test={self.name}"
        docker(
            "run", "--detach", f"--name={self._container(name)}", label, *options, image, *command
        )

    def _start_world(self) -> None:
        """Start what is outside the instance: metadata server, a private service, the network."""
        docker("network", "create", self.name)
        owner = "--opt=o=uid=65532,mode=0755"
        docker("volume", "create", "--opt=type=tmpfs", "--opt=device=tmpfs", owner, self._trust)
        network = f"--network={self.name}"
        low_ports = "--sysctl=net.ipv4.ip_unprivileged_port_start=0"
        google = ["-m", "ext_authz.standins", "google", "--host=0.0.0.0", "--port=80"]
        python, shell = "--entrypoint=python", "--entrypoint=sh"
        alias = "--network-alias=metadata.google.internal"
        image = self._standin_image
        self._run("google", image, network, alias, low_ports, python, command=google)
        script = (
            "python -m ext_authz.standins certificates --directory /tmp/keys"
            f" {RECEIVER} {TAGGED} && "
            "cat /etc/ssl/certs/ca-certificates.crt /tmp/keys/ca.pem >/trust/ca-certificates.crt &&"
            "exec python -m ext_authz.standins receiver --host=0.0.0.0 --port=443"
            " --certificates=/tmp/keys --jwks-url=http://metadata.google.internal/oauth2/v3/certs"
            f" --audience=https://{RECEIVER}"
        )
        options = [network, low_ports, shell]
        options += [f"--network-alias={name}" for name in (RECEIVER, TAGGED)]
        trust = f"--volume={self._trust}:/trust"
        self._run("receiver", image, *options, trust, command=["-c", script])
        forever = ["-c", "import signal; signal.pause()"]
        self._run("instance", image, network, python, command=forever)
        wait_until(
            "the receiver listens", lambda: self._execute("instance", _CONNECT, RECEIVER, "443")
        )

    def _execute(self, name: str, script: str, *arguments: str) -> bool:
        command = ("exec", self._container(name), "python", "-c", script, *arguments)
        try:
            docker(*command)
        except AssertionError:
            return False
        return True

    def _limits(self, spec: Mapping[str, Any]) -> list[str]:
        limits = spec["resources"]["limits"]
        memory = int(limits["memory"].removesuffix("Mi"))
        cpus = min(int(limits["cpu"].removesuffix("m")) / 1000, os.cpu_count() or 1)
        return [f"--memory={memory}m", f"--cpus={cpus}"]

    def _pass_probe(self, name: str, spec: Mapping[str, Any]) -> None:
        probe = spec.get("startupProbe")
        if probe is None and "ports" not in spec:
            return
        if probe is None:  # Cloud Run's own default for the ingress container
            probe = {"tcpSocket": spec["ports"][0], "periodSeconds": 1, "failureThreshold": 240}
        period, tries = probe.get("periodSeconds", 10), probe.get("failureThreshold", 3)
        timeout = probe.get("timeoutSeconds", 1)
        assert timeout <= period, f"{name}: Cloud Run wants timeoutSeconds <= periodSeconds"
        assert period * tries <= MAX_STARTUP_SECONDS, f"{name}: the probe may last too long"
        what = probe.get("httpGet") or probe["tcpSocket"]
        port = what.get("port") or what["containerPort"]
        arguments = (self.address, str(port), str(timeout), what.get("path", ""))
        time.sleep(probe.get("initialDelaySeconds", 0))
        for _ in range(tries):
            begin = time.monotonic()
            if self._execute("instance", _PROBE, *arguments):
                return
            if not inspect(self._container(name))["State"]["Running"]:
                break
            time.sleep(max(0.0, period - (time.monotonic() - begin)))
        raise ProbeFailedError(f"{name} did not pass its startup probe:\n{self.logs(name)}")
