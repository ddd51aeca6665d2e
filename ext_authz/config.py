"""Turns the configuration file, the environment and the flags (low to high) into frozen settings.

The only reader of the environment. Every problem is reported at once, with file, line and key.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from ext_authz.config_credentials import read_credentials
from ext_authz.destination import Destination, parse_authority
from ext_authz.errors import BadDestinationError, Problem
from ext_authz.policy import HTTP_PORT, HTTPS_PORT, Header, Rule
from ext_authz.settings import (
    BUILT_IN_MATCH,
    DEFAULT,
    NamedCredential,
    Settings,
    StaticCredential,
)
from ext_authz.yaml_reader import Problems, Value, read

MAX_FILE_BYTES = 1024 * 1024
_TOP_KEYS = (
    "credentials",
    "destinations",
    "reverse_proxy",
    "other_destinations",
    "tokens",
    "upstream",
    "trusted_endpoints",
)


@functools.cache
def environment() -> Mapping[str, str]:
    """Return the environment that the process was started with (a copy)."""
    return dict(os.environ)


def quiet_grpc() -> None:
    """Keep grpc's own lines off stderr: call it before grpc is imported."""
    environment()  # copied first: what exec hands on must not hold our settings
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags and their environment variables say; None where they say nothing."""

    upstream: str | None = None
    refresh: str | None = None
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
    settings = _Loader(problems, environ).settings(document)
    settings = _override(settings, overrides, problems)
    return _with_upstream_rule(settings), problems.found


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

    def settings(self, document: Value | None) -> Settings:
        top = document.fields(*_TOP_KEYS) if document and not document.is_null else {}
        credentials = read_credentials(top.get("credentials"), self._environ)
        rules = self._rules(top.get("destinations"), credentials)
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

    def _rules(
        self, section: Value | None, credentials: Mapping[str, NamedCredential]
    ) -> tuple[Rule, ...]:
        if section is None:
            return (Rule(BUILT_IN_MATCH, DEFAULT),)
        rules: dict[tuple[bool, str, int], Rule] = {}
        for value in section.items():
            rule = self._rule(value, credentials)
            if rule is None:
                continue
            place = (rule.is_suffix, rule.host, rule.port)
            if place in rules:
                value.problem(f"two rules match {rule.match}; expected one")
            rules[place] = rule
        return tuple(rules.values())

    def _rule(self, value: Value, credentials: Mapping[str, NamedCredential]) -> Rule | None:
        fields = value.fields("match", "audience", "credential", "header")
        match = self._match(value, fields.get("match"))
        name = fields["credential"].text() if "credential" in fields else DEFAULT
        header = fields["header"].choice("auto", *Header) if "header" in fields else "auto"
        audience = fields["audience"].text() if "audience" in fields else None
        if name is not None and name not in credentials:
            fields["credential"].problem(
                f"there is no credential {name!r}; expected one of {', '.join(credentials)}"
            )
            return None
        static = name and isinstance(credentials[name].credential, StaticCredential)
        if static and "audience" in fields:
            fields["audience"].problem(f"credential {name!r} is a static token and has no audience")
        if audience:
            self._check_template(fields["audience"], audience)
        if match is None or name is None or header is None:
            return None
        return replace(
            match,
            credential=name,
            header=None if header == "auto" else Header(header),
            audience=None if static else (audience or match.audience),
        )

    def _match(self, rule: Value, value: Value | None) -> Rule | None:
        if value is None:
            if rule.is_mapping:
                rule.problem("expected a match: the host, or *.suffix, that the rule is for")
            return None
        text = value.text()
        try:
            found = Rule(text, DEFAULT) if text else None
        except BadDestinationError as error:
            value.problem(error.message.partition(";")[0])
            return None
        if found and found.port == HTTP_PORT:
            value.problem("port 80 is cleartext, where no token goes; leave the port out")
            return None
        return found

    def _check_template(self, value: Value, audience: str) -> None:
        rest = audience.replace("{host}", "")
        if "{" in rest or "}" in rest:
            value.problem("expected a text in which only {host} stands in braces")

    def _reverse_proxy(self, settings: Settings, section: Value) -> Settings:
        value = section.fields("upstream").get("upstream")
        if value is None or value.is_null:
            return settings
        text = value.text()
        return replace(settings, upstream=_upstream(text, value.problem) if text else None)

    def _other_destinations(self, settings: Settings, section: Value) -> Settings:
        return replace(settings, pass_others=section.choice("pass", "deny") != "deny")

    def _tokens(self, settings: Settings, section: Value) -> Settings:
        value = section.fields("refresh").get("refresh")
        word = value.choice("ahead", "lazy") if value else "ahead"
        return replace(settings, refresh_ahead=word != "lazy")

    def _upstream(self, settings: Settings, section: Value) -> Settings:
        fields = section.fields("ca_file", "allow_loopback", "dns_resolvers")
        ca_file = fields.get("ca_file")
        text = ca_file.text() if ca_file and not ca_file.is_null else None
        if ca_file and text:
            _readable(Path(text), ca_file.problem)
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

    if overrides.upstream is not None:
        settings = replace(settings, upstream=_upstream(overrides.upstream, note("upstream")))
    if overrides.refresh is not None:
        settings = replace(settings, refresh_ahead=overrides.refresh == "ahead")
    if overrides.other_destinations is not None:
        settings = replace(settings, pass_others=overrides.other_destinations == "pass")
    if overrides.allow_loopback is not None:
        settings = replace(settings, allow_loopback=overrides.allow_loopback)
    if overrides.ca_file is not None:
        _readable(Path(overrides.ca_file), note("ca-file"))
        settings = replace(settings, ca_file=Path(overrides.ca_file))
    if overrides.dns_resolvers is not None:
        resolvers = tuple(filter(None, overrides.dns_resolvers.split(",")))
        settings = replace(settings, dns_resolvers=resolvers)
    return settings


def _is_https_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parse_authority(parts.netloc)
    except (ValueError, BadDestinationError):
        return False
    return parts.scheme == "https" and parts.path in ("", "/") and not parts.query


def _upstream(url: str, problem: Callable[[str], None]) -> Destination | None:
    try:
        parts = urlsplit(url)
        destination = parse_authority(parts.netloc)
    except BadDestinationError as error:
        problem(error.message.partition(";")[0])
        return None
    except ValueError:
        problem("expected a URL, got something else")
        return None
    if parts.scheme != "https" or parts.path not in ("", "/") or parts.query or parts.fragment:
        problem("expected https://HOST[:PORT] without a path: a token travels only over TLS")
        return None
    if destination.port == HTTP_PORT:
        problem("port 80 is cleartext, where no token goes; leave the port out")
        return None
    return replace(destination, port=None) if destination.port == HTTPS_PORT else destination


def _readable(path: Path, problem: Callable[[str], None]) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        problem(f"{path} cannot be read: {error.strerror}")
    except ValueError:
        problem("expected the path of a file, got a text that cannot be one")


def _with_upstream_rule(settings: Settings) -> Settings:
    """Give the reverse proxy's upstream a rule of its own where no rule matches it."""
    upstream = settings.upstream
    if upstream is None or settings.policy().matching(upstream):
        return settings
    rule = Rule(upstream.authority(HTTPS_PORT), DEFAULT)
    return replace(settings, rules=(*settings.rules, rule))
