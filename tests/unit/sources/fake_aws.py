"""A local AWS: EC2's metadata server, and the check of a request signed for its STS.

The signature is computed anew here from AWS's description of version 4, not with google-auth.
https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any
from urllib.parse import unquote, urlsplit

from ext_authz.standins.faults import Fault
from ext_authz.standins.messages import Request, Response, json_response, text_response
from ext_authz.standins.recording_server import RecordingServer

ACCESS_KEY_ID = "AKIDLOCAL"
SECRET = "local-aws-secret-key"  # a stand-in's
SESSION_TOKEN = "local-aws-session-token"
REGION = "us-east-2"
ROLE = "local-role"
_LATEST = "/latest/meta-data/"


class AwsMetadata(RecordingServer):
    """IMDSv2 of one instance with one role. A context manager."""

    def __init__(self) -> None:
        super().__init__(self._answer, lambda method, path: path.rpartition("/")[2])

    def credential_source(self) -> dict[str, str]:
        """What Google's tool writes into a federation file, but pointing here."""
        return {
            "environment_id": "aws1",
            "region_url": f"{self.url}{_LATEST}placement/availability-zone",
            "url": f"{self.url}{_LATEST}iam/security-credentials",
            "imdsv2_session_token_url": f"{self.url}/latest/api/token",
            "regional_cred_verification_url": "https://sts.{region}.amazonaws.com"
            "?Action=GetCallerIdentity&Version=2011-06-15",
        }

    def _answer(self, request: Request, fault: Fault) -> Response:
        del fault
        if request.path == "/latest/api/token":
            return text_response(200 if request.method == "PUT" else 405, "imds-token")
        if request.header("X-aws-ec2-metadata-token") != "imds-token":
            return text_response(401, "no session")
        credentials = {"AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET}
        match request.path.removeprefix(_LATEST):
            case "placement/availability-zone":
                return text_response(200, f"{REGION}b")
            case "iam/security-credentials":
                return text_response(200, ROLE)
            case "iam/security-credentials/local-role":
                return json_response(200, credentials | {"Token": SESSION_TOKEN})
        return text_response(404, "not found")


def is_signed(subject_token: str, audience: str) -> bool:
    """Say whether a subject token is a GetCallerIdentity request that this role has signed."""
    try:
        request = json.loads(unquote(subject_token))
        headers = {one["key"].lower(): one["value"] for one in request["headers"]}
        signed = headers["authorization"].split("Signature=")[1]
    except (ValueError, KeyError, IndexError):
        return False
    named = (headers["x-goog-cloud-target-resource"], headers["x-amz-security-token"])
    expected = _signature(request, headers)
    return named == (audience, SESSION_TOKEN) and hmac.compare_digest(signed, expected)


def _signature(request: dict[str, Any], headers: dict[str, str]) -> str:
    parts = urlsplit(request["url"])
    names = ("host", "x-amz-date", "x-amz-security-token")
    listed = "".join(f"{name}:{headers[name]}\n" for name in names)
    canonical = "\n".join(
        [request["method"], "/", parts.query, listed, ";".join(names), _digest("")]
    )
    date = headers["x-amz-date"]
    scope = f"{date[:8]}/{REGION}/sts/aws4_request"
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{_digest(canonical)}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
