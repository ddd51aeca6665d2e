"""Typed edge to google-auth's own JWT and RSA modules; no cryptography of ours."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt as _untyped_crypt
from google.auth import jwt as _untyped_jwt

# google-auth says it is typed but leaves these functions unannotated.
_crypt: Any = _untyped_crypt
_jwt: Any = _untyped_jwt


@dataclass(frozen=True, slots=True)
class Decoded:
    """A JWT taken apart, with nothing verified yet."""

    header: Mapping[str, Any]
    claims: dict[str, Any]
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def signer(private_key: rsa.RSAPrivateKey, key_id: str) -> Any:
    """Return google-auth's signer for a key; keep it, so that minting stays cheap."""
    return _crypt.RSASigner(private_key, key_id)


def sign(with_signer: Any, claims: Mapping[str, Any]) -> str:
    """Return `claims` as a compact RS256 JWT."""
    token: bytes = _jwt.encode(with_signer, dict(claims))
    return token.decode("ascii")


def decode(token: str) -> Decoded:
    """Take a compact JWT apart. Raises ValueError, whose text never holds the token."""
    try:
        header, claims = _jwt.decode_header(token), _jwt.decode(token, verify=False)
        signed, _, signature = token.encode("ascii").rpartition(b".")
        raw = base64.urlsafe_b64decode(signature + b"=" * (-len(signature) % 4))
    except (ValueError, TypeError, binascii.Error):
        raise ValueError("not a JWT") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise ValueError("not a JWT")
    return Decoded(header, claims, signed, raw)


def verifies(public_key: rsa.RSAPublicKey, decoded: Decoded) -> bool:
    """Say whether the RS256 signature of a JWT is by the owner of `public_key`."""
    if decoded.header.get("alg") != "RS256":
        return False
    return bool(_crypt.RSAVerifier(public_key).verify(decoded.signed, decoded.signature))


def base64url(number: int) -> str:
    """Return an integer in the form of a JSON Web Key (RFC 7518 section 2)."""
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def integer(text: str) -> int:
    """Return the integer that `base64url` wrote."""
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
