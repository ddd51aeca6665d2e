"""What the metadata server tells besides ID tokens: access tokens, project number and region."""

from __future__ import annotations

import pytest

from ext_authz.errors import SourceError
from ext_authz.sources.metadata import MetadataSource, MetadataTransport, project_number_and_region
from ext_authz.standins.faults import Fault
from ext_authz.standins.google import GoogleStandIn
from tests.unit.fakes import SENTINEL
from tests.unit.sources.conftest import RawServer


def test_its_access_token_is_asked_for_once(google: GoogleStandIn) -> None:
    source = MetadataSource(google.metadata_host)
    text = source.access.get()
    assert source.access.get() == text
    found = google.directory.access_token(text)
    assert found is not None
    assert found.principal == google.metadata.email
    assert google.count("metadata_token") == 1


def test_project_number_and_region(google: GoogleStandIn) -> None:
    assert project_number_and_region(google.metadata_host) == ("123456789012", "europe-west1")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.error(404, body=SENTINEL), "source_refused"),
        (Fault.error(503), "source_refused"),
        (Fault.garbage(SENTINEL), "source_nonsense"),
        (Fault.close(), "source_unreachable"),
    ],
)
def test_a_project_that_cannot_be_found_out(google: GoogleStandIn, fault: Fault, code: str) -> None:
    google.fail("metadata", fault)
    with pytest.raises(SourceError) as caught:
        project_number_and_region(google.metadata_host)
    assert caught.value.code == code
    assert SENTINEL not in caught.value.message


@pytest.mark.parametrize("region", ["", "europe west", "../x", "x" * 99, "EUROPE"])
def test_a_region_that_is_none(google: GoogleStandIn, region: str) -> None:
    before, google.metadata.region = google.metadata.region, region
    try:
        with pytest.raises(SourceError, match="expected a project number and a region"):
            project_number_and_region(google.metadata_host)
    finally:
        google.metadata.region = before


def test_what_does_not_say_that_it_is_a_metadata_server_is_not_believed(server: RawServer) -> None:
    """A captive portal, say, that answers everything."""
    server.says("200 OK", b"123456789012", "Server: portal")
    with pytest.raises(SourceError, match="without Metadata-Flavor: Google"):
        MetadataTransport()(server.url)
