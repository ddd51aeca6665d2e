"""Reads YAML values with the line each stands on, and collects every problem instead of stopping.

PyYAML's composed nodes are used because they keep their marks; a schema library would have to be
told the lines anew (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from ext_authz.errors import Problem

_TRUE_FALSE = {"true": True, "false": False}


@dataclass(slots=True)
class Problems:
    """The problems found so far in one file."""

    file: str
    found: list[Problem] = field(default_factory=list)

    def add(self, message: str, key: str = "", line: int | None = None) -> None:
        """Note one problem; `line` counts from 1."""
        self.found.append(Problem(message, key, self.file, line))


@dataclass(frozen=True, slots=True)
class Value:
    """One YAML value, its key path and its line."""

    node: yaml.Node
    key: str
    problems: Problems

    @property
    def line(self) -> int:
        """Return the line that the value starts on, counted from 1."""
        return int(self.node.start_mark.line) + 1

    @property
    def is_null(self) -> bool:
        """Say whether the value is empty or null."""
        return self.node.tag == "tag:yaml.org,2002:null"

    @property
    def is_mapping(self) -> bool:
        """Say whether the value has keys of its own."""
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """Say whether the value is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def problem(self, message: str) -> None:
        """Note a problem with this value."""
        self.problems.add(message, self.key, self.line)

    def expected(self, what: str) -> None:
        """Note that something else was expected. The value is not shown: it may be secret."""
        self.problem(f"expected {what}, got {_kind(self.node)}")

    def fields(self, *allowed: str) -> dict[str, Value]:
        """Return the values of a mapping by key; keys not in `allowed`, if given, are problems."""
        if not isinstance(self.node, yaml.MappingNode):
            self.expected("a mapping of keys to values")
            return {}
        found: dict[str, Value] = {}
        for key_node, node in self.node.value:
            name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            value = Value(node, f"{self.key}.{name}" if self.key else name, self.problems)
            line = key_node.start_mark.line + 1
            if allowed and name not in allowed:
                self.problems.add(f"unknown key; expected {_one_of(allowed)}", value.key, line)
            elif name in found:
                self.problems.add("the key stands here twice", value.key, line)
            else:
                found[name] = value
        return found

    def items(self) -> Iterator[Value]:
        """Return the values of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.expected("a list")
            return
        for position, node in enumerate(self.node.value):
            yield Value(node, f"{self.key}[{position}]", self.problems)

    def text(self) -> str | None:
        """Return a non-empty string, or None after noting the problem."""
        if isinstance(self.node, yaml.ScalarNode) and not self.is_null and self.node.value.strip():
            return str(self.node.value).strip()
        self.expected("a text that is not empty")
        return None

    def choice(self, *allowed: str) -> str | None:
        """Return one of the allowed words, or None after noting the problem."""
        # YAML 1.1 reads `off` as false; the written word is what counts.
        word = self.node.value if isinstance(self.node, yaml.ScalarNode) else None
        if word in allowed:
            return str(word)
        self.expected(_one_of(allowed))
        return None

    def boolean(self) -> bool | None:
        """Return true or false, or None after noting the problem."""
        word = self.node.value if isinstance(self.node, yaml.ScalarNode) else ""
        if self.node.tag == "tag:yaml.org,2002:bool" and word.lower() in _TRUE_FALSE:
            return _TRUE_FALSE[word.lower()]
        self.expected("true or false")
        return None

    def texts(self) -> tuple[str, ...]:
        """Return a list of non-empty strings."""
        return tuple(text for item in self.items() if (text := item.text()) is not None)


def read(content: str, problems: Problems) -> Value | None:
    """Parse a document; None when it is empty or no YAML (the problem is then noted)."""
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problems.add(f"expected YAML: {error.problem}", line=line)
        return None
    except (yaml.YAMLError, RecursionError):
        problems.add("expected YAML text, got something that cannot be read as such")
        return None
    return Value(node, "", problems) if node is not None else None


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return {"null": "nothing", "bool": "true or false", "int": "a number", "float": "a number"}.get(
        node.tag.rpartition(":")[2], "another text"
    )


def _one_of(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
