"""The engine and the image that the container tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.containers.engine import IMAGE, Compose, build, compose_command, engine_answers

StartCompose = Callable[..., Compose]
NO_ENGINE = "NO CONTAINER WAS TESTED: no Docker engine with docker-compose answers here"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of these tests."""
    config.addinivalue_line("markers", "containers: needs a Docker engine and docker-compose")


def _absent() -> str:
    """Return why there is nothing to run containers with, or an empty text."""
    if not engine_answers():
        return NO_ENGINE
    return "" if compose_command() else NO_ENGINE


@pytest.fixture(scope="session")
def engine() -> None:
    """Skip where there is no engine; fail where CONTAINER_TESTS=required says there must be."""
    reason = _absent()
    if reason and os.environ.get("CONTAINER_TESTS") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(f"{reason} (.ci/container-engine start makes one)")


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """Build the default target once."""
    build(IMAGE)
    return IMAGE


@pytest.fixture
def compose(image: str) -> Iterator[StartCompose]:
    """Return a function that makes a Compose project; all are removed afterwards."""
    command = compose_command()
    assert command is not None
    with ExitStack() as stack:
        yield lambda *names, **more: stack.enter_context(Compose(command, *names, **more))
