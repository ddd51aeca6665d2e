"""Turns the configuration file, the environment and the flags (low to high) into frozen settings.

The only reader of the environment. Every problem is reported at once, with file, line and key.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ext_authz.config_credentials import read_credentials
from ext_authz.config_rules import read_rules
from ext_authz.destination import Destination, parse_authority
from ext_authz.errors import BadDestinationError, Problem
from ext_authz.rules import DEFAULT, HTTP_PORT, HTTPS_PORT, Rule
from ext_authz.settings import FileSecret, Interception, Settings
from ext_authz.short_names import REGION, Project
from ext_authz.yaml_reader import Problems, Value, read

MAX_FILE_BYTES = 1024 * 1024
_PROJECT_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_TOP_KEYS = (
    "credentials",
    "destinations",
    "services",
    "discovery",
    "reverse_proxy",
    "other_destinations",
    "intercept_https",
    "tokens",
    "upstream",
    "trusted_endpoints",
)


@functools.cache
def environment() -> Mapping[str, str]:
    """Return the environment that the process was started with (a copy)."""
    return dict(os.environ)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags and their environment variables say; None where they say nothing."""

    upstream: str | None = None
    refresh: str | None = None
    credential_cache: bool | None = None
    other_destinations: str | None = None
    ca_file: str | None = None
    allow_loopback: bool | None = None
    dns_resolvers: str | None = None


def read_settings(
    path: Path | None, overrides: Overrides, environ: Mapping[str, str]
) -> tuple[Settings, list[Problem]]:
    """Read and check everything; return the settings as far as they go, and every problem.

    Without a file, `*.run.app` works with Application Default Credentials.
    """
    problems = Problems(str(path) if path else "")
    document = read(_content(path, problems), problems) if path else None
    loader = _Loader(problems, environ)
    settings = loader.settings(document)
    settings = _with_own_rules(_override(settings, overrides, problems))
    return loader.with_prewarm(settings), problems.found


def _content(path: Path, problems: Problems) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            problems.add(f"expected a file of at most {MAX_FILE_BYTES} bytes, got a larger one")
            return ""
        content = path.read_text(encoding="utf-8")
        if not content.strip():
            # Half-written, most likely: taking it as "all defaults" could open what was denied.
            problems.add("expected at least one key, got an empty file")
        return content
    except UnicodeDecodeError:
        problems.add("expected UTF-8 text, got other bytes")
    except OSError as error:
        problems.add(f"the configuration file cannot be read: {error.strerror}")
    return ""


class _Loader:
    """Walks one document; each method reads one section and notes its problems."""

    def __init__(self, problems: Problems, environ: Mapping[str, str]) -> None:
        self._problems = problems
        self._environ = environ
        self._prewarm: Value | None = None

    def settings(self, document: Value | None) -> Settings:
        top = document.fields(*_TOP_KEYS) if document and not document.is_null else {}
        credentials = read_credentials(top.get("credentials"), self._environ)
        rules = read_rules(top.get("destinations"), credentials)
        settings = Settings(
            credentials=credentials,
            rules=rules,
            metadata_host=self._environ.get("GCE_METADATA_HOST", ""),
        )
        for name, section in top.items():
            reader: Callable[[Settings, Value], Settings] | None = getattr(self, f"_{name}", None)
            if name not in ("credentials", "destinations") and reader is not None:
                settings = reader(settings, section)
        return settings

    def _reverse_proxy(self, settings: Settings, section: Value) -> Settings:
        value = section.fields("upstream").get("upstream")
        if value is None or value.is_null:
            return settings
        text = value.text()
        return replace(settings, upstream=_upstream(text, value.problem) if text else None)

    def _services(self, settings: Settings, section: Value) -> Settings:
        services = {}
        for name, value in section.fields().items():
            url = value.text()
            upstream = _upstream(url, value.problem) if url else None
            try:
                host = parse_authority(name)
            except BadDestinationError:
                host = None
            if host is None or host.port is not None or host.is_address:
                value.problem("expected a host name without a port as the key")
            elif upstream is not None:
                services[host.host] = upstream
        return replace(settings, services=services)

    def _discovery(self, settings: Settings, section: Value) -> Settings:
        if not section.is_mapping:
            return replace(settings, discovery=section.choice("auto", "off") != "off")
        fields = section.fields("project_number", "region")
        number = self._matching(fields.get("project_number"), _PROJECT_NUMBER, "a project's number")
        region = self._matching(fields.get("region"), REGION, "a region such as europe-west1")
        if len(fields) < 2:
            section.problem("expected project_number and region, or the word auto or off")
        project = Project(number, region) if number and region else None
        return replace(settings, discovery=True, project=project)

    def _matching(self, value: Value | None, form: re.Pattern[str], what: str) -> str:
        text = value.text() if value else None
        if value and text and not form.fullmatch(text):
            value.expected(what)
        return text or ""

    def _other_destinations(self, settings: Settings, section: Value) -> Settings:
        return replace(settings, pass_others=section.choice("pass", "deny") != "deny")

    def _intercept_https(self, settings: Settings, section: Value) -> Settings:
        fields = section.fields("enabled", "ca_certificate", "ca_key")
        if "enabled" not in fields or not fields["enabled"].boolean():
            return settings
        paths = [
            value.text()
            for name in ("ca_certificate", "ca_key")
            if (value := fields.get(name)) is not None and not value.is_null
        ]
        if len(paths) < 2:
            section.problem(
                "expected ca_certificate and ca_key; `idtoken-sidecar ca init` makes both"
            )
        certificate, key = (*paths, None, None)[:2]
        if certificate is None or key is None:
            return settings
        found = Interception(Path(certificate), Path(key))
        for path in (found.certificate, found.key):
            _readable(path, section.problem)
        return replace(settings, interception=found)

    def _tokens(self, settings: Settings, section: Value) -> Settings:
        fields = section.fields("refresh", "credential_cache", "prewarm")
        self._prewarm = fields.get("prewarm")
        word = fields["refresh"].choice("ahead", "lazy") if "refresh" in fields else "ahead"
        cache = fields["credential_cache"].boolean() if "credential_cache" in fields else True
        return replace(
            settings,
            refresh_ahead=word != "lazy",
            worker_cache=cache is not False,
        )

    def with_prewarm(self, settings: Settings) -> Settings:
        """Choose the rules to prewarm, once all are there: those of one host, or those listed."""
        value = self._prewarm
        possible = tuple(
            rule.match for rule in settings.rules if not rule.is_suffix and not rule.depends_on_path
        )
        if value is None or not value.is_list:
            return replace(settings, prewarm=possible if value and value.boolean() else ())
        for item in value.items():
            if (text := item.text()) is not None and text not in possible:
                item.problem(f"expected the match of a rule for one host, got {text!r}")
        return replace(settings, prewarm=value.texts())

    def _upstream(self, settings: Settings, section: Value) -> Settings:
        fields = section.fields("ca_file", "allow_loopback", "dns_resolvers")
        ca_file = fields.get("ca_file")
        text = ca_file.text() if ca_file and not ca_file.is_null else None
        if ca_file and text:
            _readable_bundle(Path(text), ca_file.problem)
        loopback = fields["allow_loopback"].boolean() if "allow_loopback" in fields else False
        resolvers = fields["dns_resolvers"].texts() if "dns_resolvers" in fields else ()
        return replace(
            settings,
            ca_file=Path(text) if text else None,
            allow_loopback=bool(loopback),
            dns_resolvers=resolvers,
        )

    def _trusted_endpoints(self, settings: Settings, section: Value) -> Settings:
        trusted = []
        for value in section.items():
            text = value.text()
            if text and _is_https_origin(text):
                trusted.append(text)
            elif text:
                value.expected("an origin of the form https://HOST[:PORT]")
        return replace(settings, trusted_endpoints=tuple(trusted))


def _override(settings: Settings, overrides: Overrides, problems: Problems) -> Settings:
    def note(flag: str) -> Callable[[str], None]:
        return lambda message: problems.found.append(Problem(message, f"--{flag}"))

    ca_file, resolvers = overrides.ca_file, overrides.dns_resolvers
    said = {
        "upstream": None
        if overrides.upstream is None
        else _upstream(overrides.upstream, note("upstream")),
        "refresh_ahead": overrides.refresh and overrides.refresh == "ahead",
        "worker_cache": overrides.credential_cache,
        "pass_others": overrides.other_destinations and overrides.other_destinations == "pass",
        "allow_loopback": overrides.allow_loopback,
        "ca_file": ca_file and Path(ca_file),
        "dns_resolvers": resolvers and tuple(filter(None, resolvers.split(","))),
    }
    if ca_file:
        _readable_bundle(Path(ca_file), note("ca-file"))
    changes: Any = {name: value for name, value in said.items() if value not in (None, "")}
    return replace(settings, **changes)


def _is_https_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parse_authority(parts.netloc)
    except (ValueError, BadDestinationError):
        return False
    return parts.scheme == "https" and parts.path in ("", "/") and not parts.query


def _upstream(url: str, problem: Callable[[str], None]) -> Destination | None:
    """Read `https://HOST[:PORT]`. What is wrong is not shown: it may hold a password."""
    expected = "expected https://HOST[:PORT] without a path: a token travels only over TLS"
    try:
        parts = urlsplit(url)
        destination = parse_authority(parts.netloc)
    except (ValueError, BadDestinationError):
        problem(expected)
        return None
    if parts.scheme != "https" or parts.path not in ("", "/") or parts.query or parts.fragment:
        problem(expected)
        return None
    if destination.port == HTTP_PORT:
        problem("port 80 is cleartext, where no token goes; leave the port out")
        return None
    return replace(destination, port=None) if destination.port == HTTPS_PORT else destination


def _readable_bundle(path: Path, problem: Callable[[str], None]) -> None:
    """Note a problem unless the file holds PEM certificates: Envoy would not start without."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        problem(f"expected certificates in PEM, found none in {FileSecret(path)}")
    except (OSError, ValueError):
        _readable(path, problem)


def _readable(path: Path, problem: Callable[[str], None]) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        problem(f"{path} cannot be read: {error.strerror}")
    except ValueError:
        problem("expected the path of a file, got a text that cannot be one")


def _with_own_rules(settings: Settings) -> Settings:
    """Give the reverse proxy's upstream and each of `services` a rule where none matches it."""
    for upstream in filter(None, (settings.upstream, *settings.services.values())):
        if not settings.policy().matching(upstream):
            rule = Rule(upstream.authority(HTTPS_PORT), DEFAULT)
            settings = replace(settings, rules=(*settings.rules, rule))
    return settings
