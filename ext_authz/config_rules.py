"""Reads the `destinations` section: one rule per entry, no two for the same hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ext_authz.errors import BadDestinationError
from ext_authz.rules import DEFAULT, HTTP_PORT, Header, Rule
from ext_authz.settings import BUILT_IN_MATCH, NamedCredential, StaticCredential
from ext_authz.yaml_reader import Value

Credentials = Mapping[str, NamedCredential]


def read_rules(section: Value | None, credentials: Credentials) -> tuple[Rule, ...]:
    """Return the rules; without the section, the built-in one. Problems are noted there."""
    if section is None:
        return (Rule(BUILT_IN_MATCH, DEFAULT),)
    rules: dict[tuple[bool, str, int], Rule] = {}
    for value in section.items():
        rule = _rule(value, credentials)
        if rule is None:
            continue
        place = (rule.is_suffix, rule.host, rule.port)
        if place in rules:
            value.problem(f"two rules match {rule.match}; expected one")
        rules[place] = rule
    return tuple(rules.values())


def _rule(value: Value, credentials: Credentials) -> Rule | None:
    fields = value.fields("match", "audience", "credential", "header", "on_existing")
    match = _match(value, fields.get("match"))
    name = _credential(fields.get("credential"), credentials)
    header = fields["header"].choice("auto", *Header) if "header" in fields else "auto"
    keep = _keep(fields.get("on_existing"), header)
    is_static = name is not None and isinstance(credentials[name].credential, StaticCredential)
    audience = _audience(fields.get("audience"), name or "", is_static=is_static)
    if match is None or name is None or header is None:
        return None
    return replace(
        match,
        credential=name,
        header=None if header == "auto" else Header(header),
        keep_existing=keep,
        audience=None if is_static else (audience or match.audience),
    )


def _credential(value: Value | None, credentials: Credentials) -> str | None:
    name = value.text() if value else DEFAULT
    if value and name is not None and name not in credentials:
        value.problem(f"there is no credential {name!r}; expected one of {', '.join(credentials)}")
        return None
    return name


def _keep(value: Value | None, header: str | None) -> bool:
    """Read `on_existing`: only a header that is named, and not Cloud Run's own, can be kept."""
    word = value.choice("keep", "replace") if value else "replace"
    if value and word == "keep" and header in ("auto", Header.SERVERLESS):
        value.problem(f"keep goes with header authorization or proxy-authorization, not {header}")
    return word == "keep"


def _audience(value: Value | None, credential: str, *, is_static: bool) -> str | None:
    audience = value.text() if value else None
    if value is None or audience is None:
        return None
    if is_static:
        value.problem(f"credential {credential!r} is a static token and has no audience")
    rest = audience.replace("{host}", "").replace("{path}", "")
    if "{" in rest or "}" in rest:
        value.problem("expected a text in which only {host} and {path} stand in braces")
    return audience


def _match(rule: Value, value: Value | None) -> Rule | None:
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
