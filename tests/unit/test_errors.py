"""Errors: one plain sentence and one stable word each."""

from __future__ import annotations

import pytest

from ext_authz import errors
from ext_authz.errors import (
    ConfigError,
    Problem,
    SidecarError,
    SourceError,
    TokenUnavailableError,
)

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, SidecarError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_stable_word_and_is_one_of_ours(kind: type[SidecarError]) -> None:
    assert kind.code.replace("_", "").isalpha()
    assert kind.code == kind.code.lower()
    assert kind.__name__.endswith("Error")
    assert kind.__doc__
    assert "Raised" in kind.__doc__ or kind is SidecarError


def test_no_two_kinds_share_a_word() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)


def test_the_text_is_the_sentence_also_after_it_was_completed() -> None:
    error = SourceError("it answered 403", code="source_refused", permanent=True)
    assert (str(error), error.code, error.permanent) == ("it answered 403", "source_refused", True)
    error.message = f"credential 'x': {error.message}"
    assert str(error) == "credential 'x': it answered 403"
    assert error.retry_after_seconds is None


def test_the_word_of_one_error_does_not_change_the_word_of_its_kind() -> None:
    SourceError("x", code="other")
    assert SourceError.code == "source_failed"


def test_token_unavailable_says_why_and_when_to_ask_again() -> None:
    error = TokenUnavailableError("no", reason="source_slow", retry_after_seconds=1.5)
    assert (error.code, error.reason, error.retry_after_seconds) == (
        "token_unavailable",
        "source_slow",
        1.5,
    )


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("bad"), "bad"),
        (Problem("bad", "a.b"), "a.b: bad"),
        (Problem("bad", "a.b", "c.yaml", 3), "c.yaml:3: a.b: bad"),
        (Problem("bad", "", "c.yaml", 3), "c.yaml:3: bad"),
        (Problem("bad", "", "c.yaml"), "c.yaml: bad"),
        (Problem("bad", "a.b", "c.yaml"), "c.yaml: a.b: bad"),
    ],
)
def test_a_problem_says_where_it_stands(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_a_configuration_error_has_every_problem_on_a_line() -> None:
    error = ConfigError([Problem("one"), Problem("two", "k")])
    assert str(error).splitlines() == ["one", "k: two"]
    assert len(error.problems) == 2
