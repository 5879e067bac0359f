"""Strict YAML to validated models and back. An error carries the file, the line and the key path.

Only `yaml.SafeLoader` is used: a file can hold data and nothing else. A key given twice is an error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from hybridsearch.errors import InvalidFile

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]


class Document:
    """A parsed YAML file that remembers where each key stands.

    Args:
        text: the YAML.
        source: the file's name as shown in errors.

    Raises:
        InvalidFile: the text is no YAML mapping, or holds a key twice.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.lines: dict[KeyPath, int] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self.data: dict[str, Any] = yaml.safe_load(text) if node is not None else {}
        except yaml.YAMLError as error:
            raise InvalidFile(f"{source}: not valid YAML: {_one_line(error)}") from None
        if not isinstance(self.data, dict):
            raise InvalidFile(f"{source}: expected keys and values, found {type(self.data).__name__}")
        if node is not None:
            self._index(node, ())

    def _index(self, node: yaml.Node, path: KeyPath) -> None:
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, key.value)
                if here in self.lines:
                    raise InvalidFile(
                        f"{self.source}, line {key.start_mark.line + 1}: key `{key.value}` is given twice"
                    )
                self._index(value, here)
                self.lines[here] = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                self._index(value, (*path, position))

    def line(self, path: KeyPath) -> int:
        """The line of the deepest known part of `path`."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def validate(self, model: type[Model], data: Mapping[str, Any] | None = None) -> Model:
        """The document (or `data`, a changed copy of it) as a `model`.

        Raises:
            InvalidFile: with the first problem, and how many more there are.
        """
        try:
            return model.model_validate(self.data if data is None else data)
        except ValidationError as error:
            raise InvalidFile(self._explain(error, model)) from None

    def _explain(self, error: ValidationError, model: type[BaseModel]) -> str:
        problems = error.errors(include_url=False)
        first = problems[0]
        path = self._real_path(first["loc"])
        key = ".".join(str(part) for part in path) or "(top)"
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            text = f"unknown key; known here: {', '.join(sorted(_known_keys(model, path))) or 'none'}"
        elif first["type"] != "missing" and not isinstance(first["input"], dict | list):
            text = f"{text}, found {first['input']!r}"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return f"{self.source}, line {self.line(path)}: `{key}`: {text}{more}"

    def _real_path(self, location: KeyPath) -> KeyPath:
        """Drop from pydantic's location the parts that name a union's branch instead of a key."""
        path: KeyPath = ()
        last = len(location) - 1
        for index, part in enumerate(location):
            if (*path, part) in self.lines or index == last:
                path = (*path, part)
        return path


def read(path: Path) -> Document:
    """Parse a YAML file.

    Raises:
        InvalidFile: the file is missing, unreadable, not UTF-8, or no YAML mapping.
    """
    try:
        return Document(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise InvalidFile(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read: {error.strerror}") from None


def dump(data: Mapping[str, Any]) -> str:
    """YAML text of plain values, keys in the order given."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120)


def parse_value(text: str) -> Any:
    """One YAML value, as written after `-o key=`.

    Raises:
        InvalidFile: the text is no YAML value.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidFile(f"`{text}` is not a YAML value: {_one_line(error)}") from None


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def _known_keys(model: type[BaseModel], path: KeyPath) -> set[str]:
    """Keys allowed beside the last part of `path`, as far as the models can be followed."""
    current: Any = model
    for part in path[:-1]:
        field = (
            current.model_fields.get(str(part))
            if isinstance(current, type) and issubclass(current, BaseModel)
            else None
        )
        current = field.annotation if field is not None else None
    return set(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else set()
