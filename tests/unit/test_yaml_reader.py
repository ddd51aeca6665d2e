"""YAML values keep their lines, and every problem is collected instead of stopping at the first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.yaml_reader import Problems, Value, read


def parsed(content: str) -> tuple[Value, Problems]:
    problems = Problems("file.yaml")
    value = read(content, problems)
    assert value is not None, problems.found
    return value, problems


def shown(problems: Problems) -> list[str]:
    return [str(problem) for problem in problems.found]


def test_values_are_found_by_key_with_their_line_and_path() -> None:
    value, problems = parsed("a:\n  b: text\n  c: [x, y]\n")
    inner = value.fields("a")["a"].fields()
    assert inner["b"].text() == "text"
    assert (inner["b"].line, inner["b"].key) == (2, "a.b")
    assert inner["c"].texts() == ("x", "y")
    assert [item.key for item in inner["c"].items()] == ["a.c[0]", "a.c[1]"]
    assert shown(problems) == []


def test_unknown_and_repeated_keys_are_problems_on_their_own_line() -> None:
    value, problems = parsed("a: 1\nb: 2\na: 3\n")
    found = value.fields("a", "c")
    assert found["a"].text() == "1"
    assert shown(problems) == [
        "file.yaml:2: b: unknown key; expected a or c",
        "file.yaml:3: a: the key stands here twice",
    ]


def test_a_key_that_is_no_text_is_a_problem_and_no_crash() -> None:
    value, problems = parsed("? [a, b]\n: 1\n")
    assert value.fields("a") == {}
    assert len(problems.found) == 1


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ("k: ", "nothing"),
        ("k: ~", "nothing"),
        ("k: {a: 1}", "a mapping"),
        ("k: [1]", "a list"),
        ("k: '  '", "another text"),
    ],
)
def test_a_text_must_be_there_and_not_empty(content: str, got: str) -> None:
    value, problems = parsed(content)
    assert value.fields()["k"].text() is None
    assert shown(problems) == [f"file.yaml:1: k: expected a text that is not empty, got {got}"]


def test_off_is_the_written_word_where_a_choice_is_asked_for() -> None:
    value, problems = parsed("k: off")
    assert value.fields()["k"].choice("auto", "off") == "off"
    assert shown(problems) == []


@pytest.mark.parametrize(
    ("content", "read_as"),
    [("k: true", True), ("k: False", False), ("k: 'true'", None), ("k: 1", None), ("k: on", None)],
)
def test_a_boolean_is_true_or_false_and_nothing_else(content: str, read_as: bool | None) -> None:
    value, problems = parsed(content)
    assert value.fields()["k"].boolean() is read_as
    assert len(problems.found) == (read_as is None)


def test_a_wrong_type_never_shows_the_value() -> None:
    value, problems = parsed("k: s3cret\nl: s3cret\n")
    fields = value.fields()
    fields["k"].fields("a")
    list(fields["l"].items())
    fields["k"].choice("a", "b")
    fields["k"].boolean()
    assert len(problems.found) == 4
    assert "s3cret" not in "\n".join(shown(problems))


@pytest.mark.parametrize("content", ["", "\n", "# only a comment\n"])
def test_an_empty_document_is_no_value_and_no_problem_of_the_reader(content: str) -> None:
    problems = Problems("file.yaml")
    assert read(content, problems) is None


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a: [1, 2\nb: 3\n", 2),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: *nowhere\n", 1),
        ("a: 'open\n", None),
        ("a: b: c\n", 1),
    ],
)
def test_broken_yaml_is_one_problem_with_its_line(content: str, line: int | None) -> None:
    problems = Problems("file.yaml")
    assert read(content, problems) is None
    [problem] = problems.found
    assert problem.message.startswith("expected YAML")
    assert line is None or problem.line == line


@pytest.mark.parametrize("content", ["\x00", "a: \x01", "[" * 500, "a: &x [*x]"])
def test_hostile_yaml_raises_nothing(content: str) -> None:
    problems = Problems("file.yaml")
    value = read(content, problems)
    assert (value is None) == (len(problems.found) == 1)


@given(st.text(alphabet="ab:-[]{}\n '\"#&*!|>?,\t\x00é", max_size=40))
def test_no_text_at_all_raises(content: str) -> None:
    problems = Problems("file.yaml")
    value = read(content, problems)
    if value is not None:
        value.fields("a")
        list(value.items())
        value.text()
        value.boolean()
