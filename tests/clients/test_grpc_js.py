"""The real @grpc/grpc-js: every kind of call by every way in."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.clients.conftest import Run, find_program
from tests.clients.test_node import scripts as scripts  # noqa: PLC0414 (a fixture)
from tests.support.grpc_behaviour import GrpcBehaviour
from tests.support.grpc_calls import Caller, call_program


def node_caller(run: Run, scripts: Path) -> Caller:
    """What makes a call in a Node process."""
    command = [find_program("node"), str(scripts / "grpc.mjs")]
    return partial(call_program, command, "--deadline-ms {ms}", partial(run, cwd=scripts))


class TestGrpcJs(GrpcBehaviour):
    """One Node process per call."""

    @pytest.fixture
    def caller(self, run: Run, scripts: Path) -> Caller:
        """Return what makes a call."""
        return node_caller(run, scripts)
