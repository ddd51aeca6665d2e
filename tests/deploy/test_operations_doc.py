"""docs/operations.md names only metrics that there are, and alerts on them."""

from __future__ import annotations

import re

import yaml

from tests.deploy.kustomize import DEPLOY
from tests.support.ask import ask
from tests.support.sidecar import Sidecar
from tests.support.world import World

TEXT = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")


def exposed(text: str) -> set[str]:
    """The names of an exposition, also of those that have no sample yet."""
    kinds = re.findall(r"^# TYPE (\S+) (\S+)", text, re.M)
    return {name for name, _ in kinds} | {f"{name}_total" for name, _ in kinds}


def test_every_metric_exists(world: World, sidecar: Sidecar) -> None:
    ours = set(re.findall(r"\bidtoken_sidecar_\w+", TEXT))
    envoys = set(re.findall(r"\benvoy_(?:http|cluster)_(?!name)\w+", TEXT))
    assert ask(sidecar, world.service_url).status == 200  # some are there from the first request
    assert len(ours) == 5
    assert len(envoys) == 4
    assert ours <= exposed(sidecar.get_status("/metrics")[1])
    assert envoys <= exposed(sidecar.get_admin("/stats/prometheus"))


def test_alerts_are_rules_of_prometheus() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (group,) = yaml.safe_load(example)["groups"]
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for"}
        assert re.search(r"idtoken_sidecar_|envoy_", rule["expr"])
        assert rule["expr"].count("(") == rule["expr"].count(")")
