"""What the service says of itself: health, readiness, metrics."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from ext_authz.standins.faults import Fault
from ext_authz.standins.google import IDENTITY
from tests.conftest import StartSidecar
from tests.support.ask import ask
from tests.support.messages import Reply
from tests.support.polling import until
from tests.support.sidecar import Sidecar, get_text
from tests.support.world import World

NAMES = (
    "idtoken_sidecar_checks_total",
    "idtoken_sidecar_token_fetches_total",
    "idtoken_sidecar_token_cache_keys",
    "idtoken_sidecar_token_expires_in_seconds",
    "process_resident_memory_bytes",
)
SAMPLE = re.compile(r"[a-z_]+(\{([a-z_]+=\"[^\"]*\",?)+\})? [0-9.e+-]+|.* \+Inf")


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/x", 404)])
def test_pages_of_the_status_port(sidecar: Sidecar, path: str, status: int) -> None:
    """A running sidecar is healthy and ready; other paths say what there is."""
    found, text = sidecar.get_status(path)
    assert found == status
    assert text.strip()


def test_metrics_are_prometheus_text(world: World, sidecar: Sidecar) -> None:
    """Every documented name is there, with a help text, once something has happened."""
    ask(sidecar, world.service_url)
    _, text = sidecar.get_status("/metrics")
    for name in NAMES:
        assert f"# HELP {name.removesuffix('_total')}" in text
        assert re.search(rf"^{name}[{{ ]", text, re.MULTILINE), name
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in samples)


def test_checks_are_counted_by_outcome_and_rule(world: World, sidecar: Sidecar) -> None:
    """Labels are words and rules, never the host that was asked for."""
    rule = f"*.cold.localhost:{world.service.port}"
    samples = {
        f'idtoken_sidecar_checks_total{{outcome="inject",rule="{rule}"}}': world.cold(),
        'idtoken_sidecar_checks_total{outcome="bad_destination",rule=""}': "a..b",
        'idtoken_sidecar_checks_total{outcome="destination_forbidden",rule=""}': "169.254.1.1",
        'idtoken_sidecar_checks_total{outcome="pass",rule=""}': "other.localhost:1",
    }
    before = {sample: sidecar.metric(sample) for sample in samples}
    for authority in samples.values():
        ask(sidecar, f"http://{authority}/")
    assert {sample: sidecar.metric(sample) - before[sample] for sample in samples} == dict.fromkeys(
        samples, 1
    )
    assert "other.localhost" not in sidecar.get_status("/metrics")[1]


def test_fetches_are_counted_by_credential_and_outcome(world: World, sidecar: Sidecar) -> None:
    """A refused fetch has its own outcome, and the request its own."""
    good = 'idtoken_sidecar_token_fetches_total{credential="default",outcome="ok"}'
    refused = 'idtoken_sidecar_token_fetches_total{credential="default",outcome="source_refused"}'
    denied = 'idtoken_sidecar_checks_total{outcome="token_unavailable",rule=""}'
    before = [sidecar.metric(sample) for sample in (good, refused, denied)]
    ask(sidecar, f"http://{world.cold()}/")
    world.google.fail(IDENTITY, Fault.error(500))
    ask(sidecar, f"http://{world.cold()}/")
    after = [sidecar.metric(sample) for sample in (good, refused, denied)]
    assert [later - sooner for sooner, later in zip(before, after, strict=True)] == [1, 1, 1]


def test_time_to_expiry_is_shown_per_held_token(world: World, sidecar: Sidecar) -> None:
    """In seconds, for each audience."""
    authority = world.cold()
    ask(sidecar, f"http://{authority}/")
    audience = f"https://{authority.partition(':')[0]}"
    labels = f'{{audience="{audience}",credential="default"}}'
    sample = f"idtoken_sidecar_token_expires_in_seconds{labels}"
    assert 3500 < sidecar.metric(sample) <= 3600


def test_readiness_ends_while_draining(world: World, start_sidecar: StartSidecar) -> None:
    """A running request is finished; /readyz says 503 meanwhile."""
    own = start_sidecar()
    world.capture.script("/slow", Reply(body=b"finished", delay_seconds=1.5))
    seen = len(world.capture.connections)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, own, f"{world.capture_url}/slow")
        until(lambda: len(world.capture.connections) > seen, 5, "the request is running")
        own.process.terminate()
        until(lambda: own.get_status("/readyz")[0] == 503, 2, "it is not ready", pause_seconds=0.01)
        assert own.get_status("/healthz")[0] == 200
        assert running.result().body == b"finished"
    assert own.wait() == 0


def test_status_pages_do_not_pass_for_a_proxy(sidecar: Sidecar) -> None:
    """Only its own paths are answered."""
    url = f"http://{sidecar.addresses['status']}/http://svc.a.run.app/"
    assert get_text(url)[0] == 404
