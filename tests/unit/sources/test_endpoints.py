"""The endpoint guard: where a credential file may send us, and where not."""

from __future__ import annotations

import pytest

from ext_authz.errors import SourceError
from ext_authz.sources.endpoints import EndpointGuard

TRUSTED = ("https://iam.example", "https://private.example:8443/")


@pytest.mark.parametrize(
    "url",
    [
        "https://oauth2.googleapis.com/token",
        "https://oauth2.googleapis.com:443/token",
        "https://iamcredentials.googleapis.com/v1/x",
        "https://accounts.google.com/o/oauth2/token",
        "https://OAUTH2.GoogleAPIs.com/token",
        "http://127.0.0.1:8181/token",
        "http://[::1]:8181/token",
        "http://localhost:8181/token",
    ],
)
def test_googles_servers_and_loopback_may_be_used(url: str) -> None:
    EndpointGuard().check(url, "token_uri of key.json")


@pytest.mark.parametrize(
    "url", ["https://iam.example/v1", "https://IAM.example:443/", "https://private.example:8443/x"]
)
def test_listed_origins_may_be_used(url: str) -> None:
    EndpointGuard(TRUSTED).check(url, "token_uri of key.json")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/token",
        "http://oauth2.googleapis.com/token",
        "https://oauth2.googleapis.com:444/token",
        "https://evilgoogleapis.com/",
        "https://googleapis.com.evil.example/",
        "https://oauth2.googleapis.com@evil.example/",
        "https://evil.example@oauth2.googleapis.com/",
        "https://u:p@oauth2.googleapis.com/",
        "https://evil.example\\.googleapis.com/token",
        "https://evil.example\\@oauth2.googleapis.com/token",
        "https://evil.example\t.googleapis.com/token",
        "https://evil.example\n.googleapis.com/token",
        "https://evil.example#.googleapis.com/token",
        "https://evil.example?.googleapis.com/token",
        "https://evil.example%2f.googleapis.com/token",
        "https://evil.example；.googleapis.com/token",
        " https://oauth2.googleapis.com/token",
        "https://oauth2.googleapis.com/token\r\nx: y",
        "https://[",
        "https://oauth2.googleapis.com:99999/",
        "https:///token",
        "//oauth2.googleapis.com/token",
        "oauth2.googleapis.com",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://127.0.0.1.evil.example/",
        "http://127.1/",
        "http://0x7f000001/",
        "http://169.254.169.254/",
        "",
        "http://iam.example/",
        "https://iam.example:8443/",
        "https://sub.iam.example/",
        "https://private.example/",
    ],
)
def test_no_other_server_may_be_used(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        EndpointGuard(TRUSTED).check(url, "token_uri of key.json")
    error = caught.value
    assert (error.code, error.permanent) == ("untrusted_endpoint", True)
    assert error.message.startswith("token_uri of key.json ")
    assert "trusted_endpoints" in error.message
