"""A setting, a command, an error code or a module that the documents do not name fails here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ext_authz import cli, config
from ext_authz.decisions import DenyCode
from ext_authz.flags import FLAGS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
ENVOY = (ROOT / "envoy" / "envoy.yaml").read_text()


def test_every_flag_stands_in_the_readme() -> None:
    assert [flag.name for flag in FLAGS if f"`--{flag.name}" not in README] == []


def test_every_flag_of_the_readme_exists() -> None:
    named = set(re.findall(r"^\| `--([a-z-]+)", README, re.MULTILINE))
    assert named <= {flag.name for flag in FLAGS}


def test_every_command_stands_in_the_readme() -> None:
    assert [name for name in cli._COMMANDS if f"| `{name}" not in README] == []


def test_every_key_of_the_file_is_documented() -> None:
    missing = [key for key in config._TOP_KEYS if not re.search(rf"^{key}:", CONFIGURATION, re.M)]
    assert missing == []


def test_the_documented_file_is_a_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for the files and the variable that it names."""
    [example] = re.findall(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
    path = tmp_path / "sidecar.yaml"
    path.write_text(example)
    _, problems = config.read_settings(path, config.Overrides(), {"MY_AUTH_TOKEN": "x"})
    assert problems == []


@pytest.mark.parametrize("word", [code.word for code in DenyCode])
def test_every_error_code_of_the_service_stands_in_the_readme(word: str) -> None:
    assert f"`{word}`" in README


def test_every_error_code_of_envoy_stands_in_the_readme() -> None:
    codes = set(re.findall(r"\berror: ([a-z_]+)[,\n]", ENVOY))
    assert codes
    assert [code for code in codes if f"`{code}`" not in README] == []


def test_every_module_stands_in_the_architecture() -> None:
    modules = {path.stem for path in (ROOT / "ext_authz").glob("*.py")} - {"__init__", "__main__"}
    assert [name for name in modules if f"`{name}`" not in ARCHITECTURE] == []


def test_readme_stays_short() -> None:
    assert len(README.splitlines()) < 200
