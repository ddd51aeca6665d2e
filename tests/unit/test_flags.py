"""Flags: each has its variable, what is written wins, and a bad value names where it stands."""

from __future__ import annotations

import argparse

import pytest

from ext_authz.errors import UsageError
from ext_authz.flags import FLAGS, Flag, Parser, add_flags, fill_in

COMMANDS = sorted({command for flag in FLAGS for command in flag.commands})
# A value of each kind that is not the default.
VALUES = {"bool": ("true", True), "int": ("1234", 1234), "str": ("some-text", "some-text")}


def value_of(flag: Flag) -> tuple[str, object]:
    return (flag.choices[-1],) * 2 if flag.choices else VALUES[flag.kind.__name__]


def parse(command: str, arguments: list[str], environ: dict[str, str]) -> argparse.Namespace:
    parser = Parser(prog="idtoken-sidecar")
    add_flags(parser, command)
    options = parser.parse_args(arguments)
    fill_in(options, command, environ)
    return options


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_is_also_an_environment_variable(flag: Flag) -> None:
    text, value = value_of(flag)
    assert flag.variable == "IDTOKEN_SIDECAR_" + flag.name.upper().replace("-", "_")
    for command in flag.commands:
        options = parse(command, [], {flag.variable: text})
        assert getattr(options, flag.attribute) == value


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_written_flag_wins_over_its_variable(flag: Flag) -> None:
    text, value = value_of(flag)
    other = {"bool": "false", "int": "1", "str": "other"}[flag.kind.__name__]
    other = flag.choices[0] if flag.choices else other
    written = [f"--{flag.name}"] if flag.kind is bool else [f"--{flag.name}", text]
    options = parse(flag.commands[0], written, {flag.variable: other})
    assert getattr(options, flag.attribute) == value


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_that_nobody_set_has_its_default(flag: Flag) -> None:
    for environ in ({}, {flag.variable: ""}):
        options = parse(flag.commands[0], [], environ)
        assert getattr(options, flag.attribute) == flag.default


@pytest.mark.parametrize(
    "flag", [f for f in FLAGS if f.kind is not str or f.choices], ids=lambda flag: flag.name
)
def test_a_bad_variable_is_named_with_what_was_expected(flag: Flag) -> None:
    for text in ("maybe", "-1", "1.5", "０", "²"):
        with pytest.raises(UsageError, match=f"{flag.variable}: expected .*, got "):
            parse(flag.commands[0], [], {flag.variable: text})


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.kind is int], ids=lambda flag: flag.name)
def test_a_bad_number_on_the_command_line_is_one_sentence(flag: Flag) -> None:
    with pytest.raises(UsageError, match=f"--{flag.name}.*--help") as caught:
        parse(flag.commands[0], [f"--{flag.name}", "many"], {})
    assert "\n" not in str(caught.value)


def test_an_absurdly_long_number_is_wrong_usage_too() -> None:
    with pytest.raises(UsageError, match="IDTOKEN_SIDECAR_FORWARD_PORT"):
        parse("run", [], {"IDTOKEN_SIDECAR_FORWARD_PORT": "9" * 5000})


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("YES", True), ("True", True), ("0", False), ("no", False)]
)
def test_truth_has_a_few_spellings(text: str, value: bool) -> None:
    options = parse("run", [], {"IDTOKEN_SIDECAR_ACCESS_LOG": text})
    assert options.access_log is value


def test_a_switch_can_be_turned_off_on_the_command_line() -> None:
    environ = {"IDTOKEN_SIDECAR_ALLOW_LOOPBACK": "true"}
    assert parse("run", ["--no-allow-loopback"], environ).allow_loopback is False


def test_upstream_url_is_accepted_and_our_own_variable_wins() -> None:
    assert parse("run", [], {"UPSTREAM_URL": "https://a.b"}).upstream == "https://a.b"
    both = {"UPSTREAM_URL": "https://a.b", "IDTOKEN_SIDECAR_UPSTREAM": "https://c.d"}
    assert parse("run", [], both).upstream == "https://c.d"


def test_flags_of_the_file_say_nothing_unless_they_are_set() -> None:
    options = parse("run", [], {})
    for name in (
        "config",
        "upstream",
        "other_destinations",
        "ca_file",
        "allow_loopback",
        "refresh",
    ):
        assert getattr(options, name) is None


def test_an_unknown_flag_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--nonsense"):
        parse("run", ["--nonsense"], {})


def test_a_command_takes_only_its_own_flags() -> None:
    with pytest.raises(UsageError):
        parse("token", ["--forward-port", "1"], {})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_every_variable(command: str) -> None:
    parser = Parser(prog="idtoken-sidecar")
    add_flags(parser, command)
    text = parser.format_help()
    for flag in FLAGS:
        assert (flag.variable in text) == (command in flag.commands)
        assert (
            not flag.default
            or f"(default {flag.default})" in " ".join(text.split())
            or (command not in flag.commands)
        )


def test_no_two_flags_share_a_name_or_a_variable() -> None:
    assert (
        len({flag.variable for flag in FLAGS}) == len({flag.name for flag in FLAGS}) == len(FLAGS)
    )
