"""Verifies ID tokens as a receiver does: key, signature, issuer, audience and expiry."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Collection, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from ext_authz.standins import rs256
from ext_authz.standins.issuer import GOOGLE_ISSUER, Claims, Clock, Issuer

ISSUERS = frozenset({GOOGLE_ISSUER, "accounts.google.com"})
_FETCH_TIMEOUT_SECONDS = 5
_REFETCH_SECONDS = 1.0  # an unknown key id makes the key set be read again, at most this often


class TokenRejectedError(Exception):
    """Raised when a token is not accepted; `reason` is a stable word and never the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the token was rejected: {reason}")
        self.reason = reason


class TokenVerifier:
    """Accepts RS256 tokens signed by an `Issuer` or by the keys at a JWKS URL."""

    def __init__(self, keys: Issuer | str, *, clock: Clock | None = None) -> None:
        """`keys` is an issuer in this process or an http(s) URL of a JSON Web Key Set."""
        self._keys = keys
        self._clock = clock or (keys.clock if isinstance(keys, Issuer) else time.time)
        self._known: dict[str, rsa.RSAPublicKey] = {}
        self._fetched_at = -_REFETCH_SECONDS
        self._lock = threading.Lock()

    def verify(self, token: str, audiences: Collection[str]) -> Claims:
        """Return the claims of `token`.

        Raises TokenRejectedError with reason malformed, unknown_key, bad_signature,
        wrong_issuer, wrong_audience, expired or not_yet_valid.
        """
        claims = self.verify_signature(token)
        if claims.get("iss") not in ISSUERS:
            raise TokenRejectedError("wrong_issuer")
        self._check_times(claims)
        audience = claims.get("aud")
        if not isinstance(audience, str) or audience not in audiences:
            raise TokenRejectedError("wrong_audience")
        return claims

    def verify_signature(self, token: str) -> Claims:
        """Return the claims of `token` once its signature holds; nothing else is checked."""
        try:
            decoded = rs256.decode(token)
        except ValueError:
            raise TokenRejectedError("malformed") from None
        key_id = decoded.header.get("kid")
        public_key = self._public_key(key_id) if isinstance(key_id, str) else None
        if public_key is None:
            raise TokenRejectedError("unknown_key")
        if not rs256.verifies(public_key, decoded):
            raise TokenRejectedError("bad_signature")
        return decoded.claims

    def _check_times(self, claims: Claims) -> None:
        now = self._clock()
        expiry, issued = claims.get("exp"), claims.get("iat")
        if not isinstance(expiry, int) or not isinstance(issued, int):
            raise TokenRejectedError("malformed")
        if expiry <= now:
            raise TokenRejectedError("expired")
        if issued > now + 300:
            raise TokenRejectedError("not_yet_valid")

    def _public_key(self, key_id: str) -> rsa.RSAPublicKey | None:
        with self._lock:
            stale = time.monotonic() - self._fetched_at >= _REFETCH_SECONDS
            if key_id not in self._known and (isinstance(self._keys, Issuer) or stale):
                self._known = _public_keys(self._key_set()) or self._known
                self._fetched_at = time.monotonic()
            return self._known.get(key_id)

    def _key_set(self) -> Mapping[str, Any]:
        if isinstance(self._keys, Issuer):
            return self._keys.jwks()
        # NOTE: no proxy from the environment; keys must come straight from the issuer.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self._keys, timeout=_FETCH_TIMEOUT_SECONDS) as answer:
                found = json.load(answer)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _public_keys(key_set: Mapping[str, Any]) -> dict[str, rsa.RSAPublicKey]:
    return {
        str(jwk["kid"]): rsa.RSAPublicNumbers(
            rs256.integer(jwk["e"]), rs256.integer(jwk["n"])
        ).public_key()
        for jwk in key_set.get("keys", ())
        if isinstance(jwk, dict) and {"kid", "n", "e"} <= jwk.keys()
    }
