"""Mints RS256 ID tokens in the shape of Google's and publishes the keys that verify them."""

from __future__ import annotations

import datetime
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from ext_authz.standins import rs256

GOOGLE_ISSUER = "https://accounts.google.com"
DEFAULT_LIFE_SECONDS = 3600  # Google's ID tokens live one hour
_RSA_BITS = 2048
_CERTIFICATE_LIFE = datetime.timedelta(days=365)

Clock = Callable[[], float]
Claims = dict[str, Any]


def subject_of(email: str) -> str:
    """Return the stable 21-digit numeric id that stands for `email` in `sub` and `azp`."""
    number = int.from_bytes(hashlib.sha256(email.encode()).digest()[:8], "big")
    return f"1{number % 10**20:020d}"


@dataclass(frozen=True)
class SigningKey:
    """One RSA key with its key id; it signs, and shows its public half as PEM and as JWK."""

    private_key: rsa.RSAPrivateKey = field(repr=False)
    key_id: str
    _signer: Any = field(repr=False)

    @classmethod
    def of(cls, private_key: rsa.RSAPrivateKey) -> SigningKey:
        """Wrap a private key; its id is derived from its modulus."""
        modulus = private_key.public_key().public_numbers().n
        key_id = hashlib.sha256(str(modulus).encode()).hexdigest()[:40]
        return cls(private_key, key_id, rs256.signer(private_key, key_id))

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a fresh RSA-2048 key (about 0.1 s)."""
        return cls.of(rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS))

    @classmethod
    def from_pem(cls, private_pem: str) -> SigningKey:
        """Load a key. Raises ValueError when the text is no RSA private key."""
        key = serialization.load_pem_private_key(private_pem.encode("ascii"), password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("a signing key must be an RSA private key")
        return cls.of(key)

    @property
    def private_pem(self) -> str:
        """The private key as unencrypted PKCS #8 PEM, the form of Google's key files."""
        pem = self.private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return pem.decode("ascii")

    @property
    def public_key(self) -> rsa.RSAPublicKey:
        """The half that verifies."""
        return self.private_key.public_key()

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return `claims` as a compact RS256 JWT."""
        return rs256.sign(self._signer, claims)

    def jwk(self) -> dict[str, str]:
        """Return the public key as a JSON Web Key (RFC 7517, RFC 7518 section 6.3.1)."""
        numbers = self.public_key.public_numbers()
        return {
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": self.key_id,
            "n": rs256.base64url(numbers.n),
            "e": rs256.base64url(numbers.e),
        }

    def certificate_pem(self) -> str:
        """Return a self-signed certificate of this key, the form of Google's /oauth2/v1/certs."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federated-signon.local")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
        builder = builder.public_key(self.public_key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + _CERTIFICATE_LIFE)
        certificate = builder.sign(self.private_key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


class Issuer:
    """Mints ID tokens with the newest of its keys; every key it ever had stays published."""

    def __init__(
        self,
        *,
        clock: Clock = time.time,
        life_seconds: int = DEFAULT_LIFE_SECONDS,
        key: SigningKey | None = None,
        issuer: str = GOOGLE_ISSUER,
    ) -> None:
        """`clock` returns Unix seconds; without `key` one is generated."""
        self.clock = clock
        self.life_seconds = life_seconds
        self.issuer = issuer
        self._lock = threading.Lock()
        self._keys = [key or SigningKey.generate()]

    @property
    def signing_key(self) -> SigningKey:
        """The key that signs what is minted now."""
        return self._keys[-1]

    def keys(self) -> tuple[SigningKey, ...]:
        """Every published key, oldest first."""
        with self._lock:
            return tuple(self._keys)

    def rotate(self) -> None:
        """Sign with a fresh key from now on; tokens of the older ones still verify."""
        with self._lock:
            self._keys.append(SigningKey.generate())

    def claims(self, audience: str, email: str, *, with_email: bool = True) -> Claims:
        """Return the claims of an ID token for `email`; `with_email` is Google's format=full."""
        now = int(self.clock())
        subject = subject_of(email)
        claims: Claims = {"iss": self.issuer, "aud": audience, "azp": subject, "sub": subject}
        if with_email:
            claims |= {"email": email, "email_verified": True}
        return claims | {"iat": now, "exp": now + self.life_seconds}

    def mint(
        self,
        audience: str,
        email: str = "sender@local-project.iam.gserviceaccount.com",
        *,
        with_email: bool = True,
        **extra: Any,
    ) -> str:
        """Return a signed ID token; `extra` claims are added or replace the usual ones."""
        return self.sign(self.claims(audience, email, with_email=with_email) | extra)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Sign any claims at all, for tests that need a token Google would never mint."""
        return self.signing_key.sign(claims)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys as a JSON Web Key Set."""
        return {"keys": [key.jwk() for key in self.keys()]}

    def certificates(self) -> dict[str, str]:
        """Return key id → PEM certificate, as Google's /oauth2/v1/certs."""
        return {key.key_id: key.certificate_pem() for key in self.keys()}
