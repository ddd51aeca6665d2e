"""Who exists at the stand-in Google, and who may act as whom."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ext_authz.standins.issuer import Clock, SigningKey

ACCESS_TOKEN_LIFE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What an opaque access token stands for; `principal` is an e-mail or a principal:// name."""

    principal: str
    scopes: tuple[str, ...]
    expires_at: float


@dataclass(frozen=True, slots=True)
class User:
    """A person who logged in through an OAuth client, as gcloud does."""

    email: str
    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)


class Directory:
    """The principals, their grants and the access tokens handed out; safe for many threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._service_accounts: dict[str, SigningKey | None] = {}
        self._users: dict[str, User] = {}
        self._federations: dict[str, Callable[[str], str | None]] = {}
        self._token_creators: dict[str, set[str]] = {}
        self._access_tokens: dict[str, AccessToken] = {}

    def add_service_account(self, email: str) -> None:
        """Let a service account exist, without a key."""
        with self._lock:
            self._service_accounts.setdefault(email, None)

    def service_account_exists(self, email: str) -> bool:
        """Say whether `email` is a service account here."""
        with self._lock:
            return email in self._service_accounts

    def key_of(self, email: str) -> SigningKey | None:
        """Return the account's user-managed key, if it has one."""
        with self._lock:
            return self._service_accounts.get(email)

    def make_key(self, email: str, key: SigningKey | None = None) -> SigningKey:
        """Return the key of a service account: the one it has, else `key`, else a fresh one."""
        key = self.key_of(email) or key or SigningKey.generate()
        with self._lock:
            if (kept := self._service_accounts.get(email)) is not None:
                return kept
            self._service_accounts[email] = key
        return key

    def add_user(self, email: str) -> User:
        """Register a user login and return it."""
        number = secrets.randbelow(10**12)
        user = User(
            email=email,
            client_id=f"{number}-local.apps.googleusercontent.com",
            client_secret=secrets.token_hex(12),
            refresh_token=f"1//local-{secrets.token_urlsafe(24)}",
        )
        with self._lock:
            self._users[user.refresh_token] = user
        return user

    def user_of(self, refresh_token: str) -> User | None:
        """Return the user who holds `refresh_token`."""
        with self._lock:
            return self._users.get(refresh_token)

    def revoke(self, refresh_token: str) -> None:
        """Let a refresh token be refused from now on."""
        with self._lock:
            self._users.pop(refresh_token, None)

    def federate(
        self, audience: str, subjects: Mapping[str, str] | Callable[[str], str | None]
    ) -> None:
        """Accept subject tokens at the STS for a workload identity provider.

        `audience` is //iam.googleapis.com/projects/…/providers/…; `subjects` maps a subject
        token to its principal, or decides as a function that returns None to refuse.
        """
        with self._lock:
            self._federations[audience] = subjects if callable(subjects) else subjects.get

    def federated_principal(self, audience: str, subject_token: str) -> str | None:
        """Return the principal of a subject token, None when it is not accepted."""
        with self._lock:
            decide = self._federations.get(audience)
        return decide(subject_token) if decide else None

    def grant_token_creator(self, account: str, *principals: str) -> None:
        """Let `principals` mint tokens as `account` (roles/iam.serviceAccountTokenCreator)."""
        with self._lock:
            self._service_accounts.setdefault(account, None)
            self._token_creators.setdefault(account, set()).update(principals)

    def revoke_token_creator(self, account: str, *principals: str) -> None:
        """Take that grant back."""
        with self._lock:
            self._token_creators.get(account, set()).difference_update(principals)

    def may_create_tokens(self, principal: str, account: str) -> bool:
        """Say whether `principal` may mint tokens as `account`."""
        with self._lock:
            return principal in self._token_creators.get(account, ())

    def new_access_token(self, principal: str, scopes: tuple[str, ...]) -> str:
        """Return a fresh opaque access token of `principal`."""
        token = f"ya29.local-{secrets.token_urlsafe(32)}"
        expires_at = self._clock() + ACCESS_TOKEN_LIFE_SECONDS
        with self._lock:
            self._access_tokens[token] = AccessToken(principal, scopes, expires_at)
        return token

    def access_token(self, token: str) -> AccessToken | None:
        """Return what an access token stands for, None when unknown or expired."""
        with self._lock:
            found = self._access_tokens.get(token)
        return found if found and found.expires_at > self._clock() else None
