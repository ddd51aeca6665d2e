"""Reads the `credentials` section: named sources of tokens, and the one that is built in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ext_authz.destination import parse_authority
from ext_authz.errors import BadDestinationError
from ext_authz.rules import DEFAULT
from ext_authz.settings import (
    AutoCredential,
    Credential,
    EnvSecret,
    FileSecret,
    GcloudCredential,
    ImpersonatedCredential,
    KeyCredential,
    MetadataCredential,
    NamedCredential,
    NoCredential,
    Secret,
    StaticCredential,
    WorkloadCredential,
)
from ext_authz.yaml_reader import Value

_SECRETS = ("service_account_key", "static_token")
_KINDS = (*_SECRETS, "impersonate or workload_identity")
_ACCOUNT = re.compile(r"[A-Za-z0-9._-]{1,64}@[A-Za-z0-9.-]{1,190}|[0-9]{10,30}", re.ASCII)
_PRODUCT = Path("/sys/class/dmi/id/product_name")
# Where Google's platforms, or somebody who knows, say that there is a metadata server.
_PLATFORM_VARIABLES = (
    "GCE_METADATA_HOST",
    "GCE_METADATA_IP",
    "GCE_METADATA_ROOT",
    "K_SERVICE",
    "CLOUD_RUN_JOB",
    "CLOUD_RUN_WORKER_POOL",
    "FUNCTION_TARGET",
    "GAE_SERVICE",
    "KUBERNETES_SERVICE_HOST",
)


def read_credentials(
    section: Value | None, environ: Mapping[str, str]
) -> dict[str, NamedCredential]:
    """Return the credentials by name, `default` among them; problems are noted in the section."""
    return _Reader(environ).credentials(section)


@dataclass(frozen=True, slots=True)
class _Impersonation:
    """An impersonation whose source is not looked up yet: it may stand further down."""

    email: str
    delegates: tuple[str, ...]
    source: str
    iam_endpoint: str
    where: Value


_Raw = Credential | _Impersonation | None


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._raw: dict[str, _Raw] = {}

    def credentials(self, section: Value | None) -> dict[str, NamedCredential]:
        found = {DEFAULT: NamedCredential(DEFAULT, self._auto())}
        values = section.fields() if section else {}
        self._raw = {DEFAULT: found[DEFAULT].credential}
        self._raw |= {name: self._credential(name, value) for name, value in values.items()}
        for name, value in values.items():
            credential = self._resolved(name)
            if credential is not None:
                found[name] = NamedCredential(name, credential, value.problems.file, value.line)
            else:
                # Known by name, so that the rules that use it are not reported as well.
                found[name] = NamedCredential(name, NoCredential())
        return found

    def _auto(self) -> AutoCredential:
        named = self._environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        folder = self._environ.get("CLOUDSDK_CONFIG") or (
            f"{self._environ.get('HOME', '')}/.config/gcloud"
        )
        return AutoCredential(
            Path(named) if named else None,
            Path(folder) / "application_default_credentials.json",
            None if has_metadata_server(self._environ) else self._gcloud(),
            self._may_run_executables(),
        )

    def _gcloud(self) -> Path | None:
        found = shutil.which("gcloud", path=self._environ.get("PATH", ""))
        return Path(found) if found else None

    def _may_run_executables(self) -> bool:
        return self._environ.get("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES") == "1"

    def _words(self) -> dict[str, Credential]:
        return {
            "auto": self._auto(),
            "metadata": MetadataCredential(),
            "gcloud": GcloudCredential(self._gcloud()),
            "none": NoCredential(),
        }

    def _credential(self, name: str, value: Value) -> _Raw:
        if not value.is_mapping:
            words = self._words()
            word = value.choice(*words)
            return words[word] if word else None
        keys = {str(key.value) for key, _ in value.node.value}
        if "workload_identity" in keys:
            return self._workload(value.fields("workload_identity", "impersonate", "iam_endpoint"))
        if "impersonate" in keys:
            fields = value.fields("impersonate", "delegates", "source", "iam_endpoint")
            return self._impersonation(name, value, fields)
        fields = value.fields(*_SECRETS, "impersonate", "workload_identity")
        if len(fields) != 1:
            value.problem(f"expected exactly one of {', '.join(_KINDS)}")
            return None
        (kind, inner), *_ = fields.items()
        secret = self._secret(inner, bare_is_path=kind == "service_account_key")
        if secret is None:
            return None
        return KeyCredential(secret) if kind == "service_account_key" else StaticCredential(secret)

    def _workload(self, fields: dict[str, Value]) -> Credential | None:
        secret = self._secret(fields["workload_identity"], bare_is_path=True)
        email = _account(fields["impersonate"]) if "impersonate" in fields else ""
        endpoint = _endpoint(fields.get("iam_endpoint"))
        if secret is None or email is None or endpoint is None:
            return None
        return WorkloadCredential(secret, email, endpoint, self._may_run_executables())

    def _impersonation(
        self, name: str, value: Value, fields: dict[str, Value]
    ) -> _Impersonation | None:
        email = _account(fields["impersonate"])
        listed = list(fields["delegates"].items()) if "delegates" in fields else []
        delegates = [_account(item) for item in listed]
        endpoint = _endpoint(fields.get("iam_endpoint"))
        # The credential `default` stands on `auto`, which it replaces.
        source = "auto" if name == DEFAULT else DEFAULT
        named = fields["source"].text() if "source" in fields else source
        if not email or endpoint is None or named is None or not all(delegates):
            return None
        chain = [*filter(None, delegates), email]
        if len(set(chain)) < len(chain):
            fields["delegates"].problem(
                "a delegation loop: expected each service account once, ending before "
                "the one under impersonate"
            )
            return None
        where = fields.get("source", value)
        return _Impersonation(email, tuple(chain[:-1]), named, endpoint, where)

    def _resolved(self, name: str, trail: tuple[str, ...] = ()) -> Credential | None:
        """Return a credential with its source inside it, None after a problem was noted."""
        raw = self._raw[name]
        if not isinstance(raw, _Impersonation):
            return raw
        if name in trail:
            if name == trail[0]:  # noted once for each that is part of the loop
                raw.where.problem(f"a loop of sources: {' -> '.join((*trail, name))}")
            return None
        source = self._source(raw, (*trail, name))
        if source is None:
            return None
        return ImpersonatedCredential(
            raw.email, source, raw.source, raw.delegates, raw.iam_endpoint
        )

    def _source(self, raw: _Impersonation, trail: tuple[str, ...]) -> Credential | None:
        words = self._words()
        if raw.source in self._raw:
            source = self._resolved(raw.source, trail)
        elif raw.source in words:
            source = words[raw.source]
        else:
            known = ", ".join(dict.fromkeys([*self._raw, *words]))
            if len(trail) == 1:
                raw.where.problem(f"there is no credential {raw.source!r}; expected one of {known}")
            return None
        if isinstance(source, StaticCredential | NoCredential):
            if len(trail) == 1:
                raw.where.problem(
                    f"credential {raw.source!r} is no Google identity; expected one that is, "
                    "such as auto, a key or a federation"
                )
            return None
        return source

    def _secret(self, value: Value, *, bare_is_path: bool) -> Secret | None:
        """Read {env: NAME} or {file: PATH}; a bare path where the contract has one."""
        if not value.is_mapping:
            if not bare_is_path:
                value.expected("{env: NAME} or {file: PATH}; a token itself does not belong here")
                return None
            path = value.text()
            return FileSecret(Path(path)) if path else None
        fields = value.fields("env", "file")
        if len(fields) != 1:
            value.problem("expected exactly one of env or file")
            return None
        (kind, inner), *_ = fields.items()
        text = inner.text()
        if text is None:
            return None
        if kind == "file":
            return FileSecret(Path(text))
        content = self._environ.get(text, "").strip()
        if not content:
            shown = text if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", text) else "of that name"
            inner.problem(f"environment variable {shown} is not set or empty")
            return None
        return EnvSecret(text, content)


def has_metadata_server(environ: Mapping[str, str], product: Path = _PRODUCT) -> bool:
    """Say whether this machine has one, by what the platform tells and without asking the network.

    `product` is the firmware's product name, "Google Compute Engine" on its machines.
    """
    if any(environ.get(name) for name in _PLATFORM_VARIABLES):
        return True
    try:
        return product.read_text(encoding="ascii").startswith("Google")
    except (OSError, ValueError):
        return False


def _account(value: Value) -> str | None:
    text = (value.text() or "").removeprefix("projects/-/serviceAccounts/")
    if _ACCOUNT.fullmatch(text):
        return text
    if text:
        value.expected("a service account's email, NAME@PROJECT.iam.gserviceaccount.com")
    return None


def _endpoint(value: Value | None) -> str | None:
    """Return the origin under iam_endpoint, "" where there is none, None after a problem."""
    if value is None or value.is_null:
        return ""
    text = (value.text() or "").rstrip("/")
    try:
        parts = urlsplit(text)
        host = parse_authority(parts.netloc).host
        local = host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")
        good = parts.scheme == "https" or (parts.scheme == "http" and local)
    except (ValueError, BadDestinationError):
        good = False
    if good and text == f"{parts.scheme}://{parts.netloc}":
        return text
    if text:
        value.expected("https://HOST[:PORT] without a path (http only on loopback)")
    return None
