"""Reads the CI recipes: the shell of every step, with the variables that the recipe itself sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from tests.deploy.kustomize import DEPLOY

SCHEMAS = {
    "github-actions.yml": "vendor.github-workflows",
    "gitlab-ci.yml": "vendor.gitlab-ci",
    "drone.yml": "vendor.drone-ci",
}


@dataclass(frozen=True)
class Recipe:
    """The scripts in their order, and the variables."""

    scripts: tuple[str, ...]
    variables: dict[str, str]

    def script(self, part: str) -> str:
        """The one script in which `part` occurs."""
        (found,) = (each for each in self.scripts if part in each)
        return found


def text(name: str) -> str:
    """The recipe as it is written."""
    return (DEPLOY / "ci" / name).read_text(encoding="utf-8")


def recipe(name: str) -> Recipe:
    """The recipe of this file name."""
    return {"gitlab-ci.yml": _gitlab, "drone.yml": _drone}.get(name, _github)(
        yaml.safe_load(text(name))
    )


def _github(content: dict[str, Any]) -> Recipe:
    steps = content["jobs"]["build"]["steps"]
    variables = dict(content["env"])
    for step in steps:
        variables |= step.get("env", {})
    return Recipe(tuple(step["run"] for step in steps if "run" in step), variables)


def _gitlab(content: dict[str, Any]) -> Recipe:
    job = content["build"]
    return Recipe((*job["before_script"], *job["script"]), content["variables"])


def _drone(content: dict[str, Any]) -> Recipe:
    (step,) = content["steps"]
    values = step["environment"].items()
    return Recipe(
        tuple(step["commands"]), {name: each for name, each in values if isinstance(each, str)}
    )
