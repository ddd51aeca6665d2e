"""Configuration problems: all at once, each with file, line and key, and never with a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.config import MAX_FILE_BYTES, Overrides, read_settings
from ext_authz.errors import Problem
from ext_authz.yaml_reader import Problems, read
from tests.unit.fakes import SENTINEL


def problems_of(
    path: Path | None, environ: dict[str, str] | None = None, **flags: Any
) -> list[Problem]:
    return read_settings(path, Overrides(**flags), environ or {})[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def said(file: Path, content: str, environ: dict[str, str] | None = None) -> str:
    """Return every problem, one on a line, without the folder."""
    file.write_text(content)
    found = problems_of(file, environ)
    assert all(problem.file == str(file) for problem in found)
    return "\n".join(str(problem) for problem in found).replace(str(file), "c.yaml")


BROKEN = [
    ("tokenz: {}", "c.yaml:1: tokenz: unknown key; expected credentials, destinations"),
    ("tokens: {}\ntokens: {}", "c.yaml:2: tokens: the key stands here twice"),
    ("tokens: {refresh: soon}", "c.yaml:1: tokens.refresh: expected ahead or lazy"),
    ("tokens: {refesh: lazy}", "c.yaml:1: tokens.refesh: unknown key"),
    ("tokens: lazy", "c.yaml:1: tokens: expected a mapping"),
    ("other_destinations: block", "c.yaml:1: other_destinations: expected pass or deny"),
    ("other_destinations: off", "c.yaml:1: other_destinations: expected pass or deny"),
    ("- a", "c.yaml:1: expected a mapping of keys to values, got a list"),
    ("word", "c.yaml:1: expected a mapping of keys to values, got another text"),
    ("a: [", "c.yaml:1: expected YAML"),
    ("credentials: [a]", "c.yaml:1: credentials: expected a mapping"),
    ("credentials: {default: autoo}", "credentials.default: expected auto, metadata"),
    ("credentials: {c: {}}", "credentials.c: expected exactly one of"),
    (
        "credentials: {c: {static_token: {env: A}, service_account_key: /k}}",
        "credentials.c: expected exactly one of",
    ),
    ("credentials: {c: {static_token: abc}}", "a token itself does not belong here"),
    ("credentials: {c: {static_token: {env: A, file: B}}}", "expected exactly one of env or file"),
    ("credentials: {c: {static_token: {env: UNSET}}}", "variable UNSET is not set or empty"),
    ("credentials: {c: {static_token: {env: BLANK}}}", "variable BLANK is not set or empty"),
    ("credentials: {c: {service_account_key: }}", "credentials.c.service_account_key: expected"),
    ("destinations: {}", "c.yaml:1: destinations: expected a list, got a mapping"),
    ("destinations: [a]", "c.yaml:1: destinations[0]: expected a mapping"),
    ("destinations:\n  - audience: x", "c.yaml:2: destinations[0]: expected a match"),
    ("destinations:\n  - match: ''", "c.yaml:2: destinations[0].match: expected a text"),
    ("destinations:\n  - match: a..b", "c.yaml:2: destinations[0].match: the destination cannot"),
    ("destinations:\n  - match: https://a.b", "c.yaml:2: destinations[0].match: the destination"),
    ("destinations:\n  - match: '*'", "c.yaml:2: destinations[0].match: the destination cannot"),
    ("destinations:\n  - match: a.b:80", "c.yaml:2: destinations[0].match: port 80 is cleartext"),
    ("destinations:\n  - match: a.b:99999", "expected a port from 1 to 65535"),
    ("destinations:\n  - {match: a.b, credential: zz}", "there is no credential 'zz'"),
    ("destinations:\n  - {match: a.b, header: cookie}", "destinations[0].header: expected auto,"),
    ("destinations:\n  - {match: a.b, audience: ''}", "destinations[0].audience: expected a text"),
    (
        "destinations:\n  - {match: a.b, audience: 'x{hos}'}",
        "only {host} and {path} stand in braces",
    ),
    (
        "destinations:\n  - {match: a.b, audience: 'x{host'}",
        "only {host} and {path} stand in braces",
    ),
    ("destinations:\n  - {match: a.b, matches: x}", "destinations[0].matches: unknown key"),
    ("destinations:\n  - match: a.b\n  - match: A.b.:443", "c.yaml:3: destinations[1]: two rules"),
    (
        "credentials: {s: {static_token: {file: /t}}}\n"
        "destinations:\n  - {match: a.b, credential: s, audience: x}",
        "c.yaml:3: destinations[0].audience: credential 's' is a static token",
    ),
    ("reverse_proxy: {upstream: http://a.b}", "reverse_proxy.upstream: expected https://HOST"),
    ("reverse_proxy: {upstream: https://a.b/p}", "expected https://HOST[:PORT] without a path"),
    ("reverse_proxy: {upstream: a.b}", "reverse_proxy.upstream: "),
    ("reverse_proxy: {upstream: 'https://u@a.b'}", "reverse_proxy.upstream: "),
    ("reverse_proxy: {upstream: 'https://['}", "reverse_proxy.upstream: "),
    ("reverse_proxy: {upstream: 'https://a.b:80'}", "reverse_proxy.upstream: "),
    ("reverse_proxy: {url: https://a.b}", "reverse_proxy.url: unknown key; expected upstream"),
    ("upstream: {ca_file: /nowhere/ca.pem}", "upstream.ca_file: /nowhere/ca.pem cannot be read"),
    ('upstream: {ca_file: "a\\0b"}', "upstream.ca_file: "),
    ("upstream: {allow_loopback: 3}", "upstream.allow_loopback: expected true or false"),
    ("upstream: {dns_resolvers: x}", "upstream.dns_resolvers: expected a list"),
    ("trusted_endpoints: 5", "c.yaml:1: trusted_endpoints: expected a list"),
    ("trusted_endpoints: [[]]", "trusted_endpoints[0]: expected a text"),
    ("trusted_endpoints: ['http://a.b']", "trusted_endpoints[0]: expected an origin"),
    ("trusted_endpoints: ['https://[']", "trusted_endpoints[0]: expected an origin"),
]


@pytest.mark.parametrize(("content", "sentence"), BROKEN)
def test_each_mistake_is_one_problem_with_its_place(
    file: Path, content: str, sentence: str
) -> None:
    text = said(file, content, {"BLANK": "  \n"})
    assert sentence in text
    assert text.startswith("c.yaml:")
    assert len(text.splitlines()) == 1


def test_an_unknown_kind_of_credential_is_named(file: Path) -> None:
    text = said(file, "credentials: {c: {password: x}}")
    assert "c.yaml:1: credentials.c.password: unknown key" in text


def test_every_problem_is_told_at_once_in_the_order_of_sections(file: Path) -> None:
    text = said(
        file,
        "credentials:\n  k: {static_token: abc}\n"
        "destinations:\n  - {match: a..b, header: foo}\n  - {match: a.b, credential: zz}\n"
        "tokenz: {}\nupstream: {allow_loopback: 3}\n",
    )
    assert [line.split(":")[1] for line in text.splitlines()] == ["6", "2", "4", "4", "5", "7"]


def test_a_broken_credential_is_not_reported_again_by_the_rules_that_use_it(file: Path) -> None:
    text = said(file, "credentials: {k: 7}\ndestinations: [{match: a.b, credential: k}]\n")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"upstream": "http://a.b"}, "--upstream: expected https://HOST"),
        ({"upstream": ""}, "--upstream: "),
        ({"ca_file": "/nowhere"}, "--ca-file: /nowhere cannot be read"),
    ],
)
def test_a_bad_flag_is_named(flags: dict[str, str], sentence: str) -> None:
    [problem] = problems_of(None, **flags)
    assert str(problem).startswith(sentence)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe\x00", "expected UTF-8 text"),
        (b"match: \xe9", "expected UTF-8 text"),
        (b"#" * (MAX_FILE_BYTES + 1), "at most"),
        (b"a: \x00", "expected YAML"),
        (b"", "empty"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_as_a_whole(
    file: Path, content: bytes, sentence: str
) -> None:
    file.write_bytes(content)
    [problem] = problems_of(file)
    assert sentence in problem.message
    assert problem.file == str(file)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    [absent] = problems_of(tmp_path / "absent.yaml")
    assert "No such file" in absent.message
    [folder] = problems_of(tmp_path)
    assert "cannot be read" in folder.message


@pytest.mark.parametrize(
    "content",
    [
        f"credentials: {{k: {{static_token: {SENTINEL}}}}}",
        f"credentials: {{k: {{static_token: [{SENTINEL}]}}}}",
        f"credentials: {{k: {SENTINEL}}}",
        f"credentials: {{k: {{static_token: {{env: '{SENTINEL}'}}}}}}",
        f"credentials: {{k: {{service_account_key: [{SENTINEL}]}}}}",
        f'credentials: {{k: {{service_account_key: {{"private_key": "{SENTINEL}"}}}}}}',
        f"other_destinations: {SENTINEL}",
        f"tokens: {{refresh: {SENTINEL}}}",
        f"upstream: {{allow_loopback: {SENTINEL}}}",
        f"trusted_endpoints: [{{a: {SENTINEL}}}]",
        f"reverse_proxy: {{upstream: 'https://me:{SENTINEL}@a.b'}}",
        f"a: '{SENTINEL}",
    ],
)
def test_no_problem_quotes_what_may_be_secret(file: Path, content: str) -> None:
    text = said(file, content)
    assert text
    assert SENTINEL not in text


words = st.sampled_from(
    ["a", "credentials", "default", "static_token", "env", "destinations", "match", "1", "*.a.b"]
)
trees = st.recursive(
    words | st.none() | st.booleans() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)


@given(trees)
def test_no_document_at_all_raises(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    import json

    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(json.dumps(tree))
    assert read(path.read_text(), Problems("x")) is not None
    settings, problems = read_settings(path, Overrides(), {})
    assert settings.policy()
    assert all(problem.file == str(path) for problem in problems)
