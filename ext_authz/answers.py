"""Builds CheckResponses: the only place that can say OK, so that none says it by accident.

An empty CheckResponse means OK to Envoy (status code 0), which would let a request go bare.
"""

from __future__ import annotations

import json

from ext_authz.decisions import Deny, Inject, Keep, Pass, Tunnel, Via
from ext_authz.proto import external_auth_pb2 as pb
from ext_authz.rules import Header
from ext_authz.tokens import Token

_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_PERMISSION_DENIED = 7  # google.rpc.Code; any number but 0 denies


def inject(decision: Inject, token: Token, cache_seconds: int = 0) -> bytes:
    """Let the request go over TLS, with the token.

    With `cache_seconds` our own Envoy is also told what its worker may do itself for so long; the
    names are those that envoy/credential_cache.lua reads.
    """
    response = _ok(decision.authority, Via.TLS)
    value = f"Bearer {token.text}"
    _set(response, decision.header, value)
    response.ok_response.headers_to_remove.extend(decision.remove)
    response.dynamic_metadata["token_id"] = token.fingerprint
    if cache_seconds > 0:
        response.dynamic_metadata.update(
            {
                "cache_seconds": cache_seconds,
                "authority": decision.authority,
                "header": decision.header.value,
                "value": value,
                "remove": ",".join(decision.remove),
            }
        )
    return response.SerializeToString()


def kept(decision: Keep) -> bytes:
    """Let the request go over TLS with the app's own header."""
    response = _ok(decision.authority, Via.TLS)
    response.ok_response.headers_to_remove.extend(decision.remove)
    return response.SerializeToString()


def passed(decision: Pass) -> bytes:
    """Let the request go as it came."""
    return _ok(decision.authority, Via.PLAIN).SerializeToString()


def tunnel(decision: Tunnel) -> bytes:
    """Let a CONNECT through, and say where its bytes go."""
    response = _ok(decision.authority, decision.via)
    response.dynamic_metadata["tunnel_host"] = decision.destination.host
    response.dynamic_metadata["tunnel_port"] = str(decision.destination.port)
    return response.SerializeToString()


def deny(decision: Deny, *, is_grpc: bool) -> bytes:
    """Refuse: JSON for HTTP; for gRPC one sentence, which Envoy makes the `grpc-message`."""
    response = pb.CheckResponse(status=pb.Status(code=_PERMISSION_DENIED))
    denied = response.denied_response
    denied.status.code = decision.code.http_status
    if decision.retry_after_seconds is not None:
        _append(denied.headers, "retry-after", str(decision.retry_after_seconds))
    if is_grpc:
        denied.body = f"{decision.code.word}: {decision.message}"
        return response.SerializeToString()
    _append(denied.headers, "content-type", "application/json")
    denied.body = json.dumps(
        {
            "error": decision.code.word,
            "message": decision.message,
            "destination": decision.destination,
        }
    )
    return response.SerializeToString()


def _ok(authority: str, via: Via) -> pb.CheckResponse:
    response = pb.CheckResponse(status=pb.Status(code=0))
    response.ok_response.SetInParent()
    if authority:
        # Our own Envoy picks the route anew only if the answer changed a header.
        _append(response.ok_response.headers, ":authority", authority)
    response.dynamic_metadata["route"] = via.value
    return response


def _set(response: pb.CheckResponse, header: Header, value: str) -> None:
    _append(response.ok_response.headers, header.value, value)


def _append(headers: object, key: str, value: str) -> None:
    headers.add(header=pb.HeaderValue(key=key, value=value), append_action=_OVERWRITE)  # type: ignore[attr-defined]
