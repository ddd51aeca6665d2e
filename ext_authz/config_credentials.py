"""Reads the `credentials` section: named sources of tokens, and the one that is built in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ext_authz.settings import (
    DEFAULT,
    AutoCredential,
    Credential,
    EnvSecret,
    FileSecret,
    KeyCredential,
    MetadataCredential,
    NamedCredential,
    NoCredential,
    Secret,
    StaticCredential,
)
from ext_authz.yaml_reader import Value


def read_credentials(
    section: Value | None, environ: Mapping[str, str]
) -> dict[str, NamedCredential]:
    """Return the credentials by name, `default` among them; problems are noted in the section."""
    return _Reader(environ).credentials(section)


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def credentials(self, section: Value | None) -> dict[str, NamedCredential]:
        found = {DEFAULT: NamedCredential(DEFAULT, self._auto())}
        for name, value in (section.fields() if section else {}).items():
            credential = self._credential(value)
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
        well_known = Path(folder) / "application_default_credentials.json"
        return AutoCredential(Path(named) if named else None, well_known)

    def _credential(self, value: Value) -> Credential | None:
        if not value.is_mapping:
            words: dict[str, Credential] = {
                "auto": self._auto(),
                "metadata": MetadataCredential(),
                "none": NoCredential(),
            }
            word = value.choice(*words)
            return words[word] if word else None
        fields = value.fields("service_account_key", "static_token")
        if len(fields) != 1:
            value.problem("expected exactly one of service_account_key or static_token")
            return None
        (kind, inner), *_ = fields.items()
        secret = self._secret(inner, bare_is_path=kind == "service_account_key")
        if secret is None:
            return None
        return KeyCredential(secret) if kind == "service_account_key" else StaticCredential(secret)

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
