"""The real grpc-go, and the story: go-api and node-api call go-contact, each as itself."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.clients.conftest import Run, cache_directory, find_program
from tests.clients.test_grpc_js import node_caller
from tests.clients.test_node import scripts as scripts  # noqa: PLC0414 (a fixture)
from tests.conftest import StartSidecar
from tests.support.go_build import build
from tests.support.grpc_behaviour import GrpcBehaviour
from tests.support.grpc_calls import (
    WAYS,
    Caller,
    GrpcCall,
    authority_of,
    call_program,
    config_for,
    go_contact,
    way_in,
)
from tests.support.sidecar import Sidecar
from tests.support.world import World

SOURCES = Path(__file__).parents[1] / "support" / "goclient"
GO_API, NODE_API, STRANGER = (f"{name}@p.iam.gserviceaccount.com" for name in ("go", "node", "x"))
PERMISSION_DENIED = 7


@pytest.fixture(scope="session")
def go_client() -> Path:
    """Build the client once per machine and source; return the program."""
    return build(find_program("go"), SOURCES, cache_directory("go"))


def go_caller(run: Run, go_client: Path) -> Caller:
    """What makes a call in a Go process."""
    return partial(call_program, [str(go_client)], "--deadline {ms}ms", run)


class TestGrpcGo(GrpcBehaviour):
    """One Go process per call."""

    @pytest.fixture
    def caller(self, run: Run, go_client: Path) -> Caller:
        """Return what makes a call."""
        return go_caller(run, go_client)


@pytest.mark.parametrize("way", WAYS)
def test_each_api_calls_go_contact_as_itself(
    world: World,
    start_sidecar: StartSidecar,
    tmp_path: Path,
    run: Run,
    go_client: Path,
    scripts: Path,
    way: str,
) -> None:
    """go-contact verifies both identities, and refuses one that it does not know."""
    callers = {GO_API: go_caller(run, go_client), NODE_API: node_caller(run, scripts)}
    callers[STRANGER] = callers[GO_API]
    with go_contact(world, invokers={GO_API, NODE_API}) as contact:

        def sidecar_of(email: str) -> Sidecar:
            key = tmp_path / f"{email.partition('@')[0]}.json"
            key.write_text(json.dumps(world.google.service_account_key(email)))
            own = f"credentials: {{default: {{service_account_key: {key}}}}}"
            upstream = f"--upstream=https://{authority_of(contact)}"
            return start_sidecar(upstream, config=config_for(world, contact, own))

        answers = {
            email: caller(way_in(way, sidecar_of(email), authority_of(contact)), GrpcCall())
            for email, caller in callers.items()
        }
        for email in (GO_API, NODE_API):
            assert (answers[email].code, answers[email].messages) == (0, ("hello",))
            assert answers[email].trailers["caller-email"] == email
        assert answers[STRANGER].code == PERMISSION_DENIED
        seen = [(one.refusal, one.claims["email"] if one.claims else None) for one in contact.calls]
        assert seen == [(None, GO_API), (None, NODE_API), ("not_an_invoker", None)]
