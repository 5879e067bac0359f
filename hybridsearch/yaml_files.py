"""Strict YAML to validated models and back. An error carries the file, the line and the key path.

Only `yaml.SafeLoader` is used: a file can hold data and nothing else. A key given twice is an error.
"""

import types
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from hybridsearch.errors import InvalidFile

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]
MOST_VALUES = 100_000
"""Of a file: a few references to references stand for more values than memory holds."""
EXPECTED = "expected "
PLAIN = {
    "missing": "missing",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "string_type": "expected text",
    "finite_number": "expected a finite number",
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "expected keys and values"),
    **dict.fromkeys(("list_type", "tuple_type"), "expected a list"),
    "literal_error": "expected {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "string_pattern_mismatch": "must match {pattern}",
    "union_tag_invalid": "unknown kind {tag!r}; known: {expected_tags}",
    "too_short": "needs at least {min_length} values, found {actual_length}",
}
"""Pydantic's kinds of problem in words that need no Python; all others keep their own."""


class ProblemAt(ValueError):
    """Raised in a validator of a model to point at a key below the model's own.

    Args:
        message: what is wrong, found and allowed.
        path: the key, from the validated model downwards.
    """

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


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
        self.origins: dict[KeyPath, str] = {}
        """Where values come from that stand in no file, by key."""
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            data: Any = yaml.safe_load(text) if node is not None else {}
        except yaml.YAMLError as error:
            raise InvalidFile(f"{source}: not valid YAML: {_one_line(error)}") from None
        except RecursionError:
            raise InvalidFile(f"{source}: nested too deeply") from None
        if not isinstance(data, dict):
            raise InvalidFile(f"{source}: expected keys and values, found {type(data).__name__}")
        self.data: dict[str, Any] = data
        if node is not None:
            try:
                self._index(node, ())
            except RecursionError:
                raise InvalidFile(f"{source}: a value refers to itself; write it out") from None

    @classmethod
    def of(cls, data: Mapping[str, Any], source: str) -> "Document":
        """Plain values that stand in no file of their own: errors name the key, but no line."""
        document = cls("", source)
        document.data = dict(data)
        document._index_values(document.data, ())
        return document

    def changed(self, path: KeyPath, data: Mapping[str, Any], origin: str) -> "Document":
        """A copy holding `data`, which differs at `path`; errors there name `origin`, e.g. an option, and no line."""
        copy = Document("", self.source)
        copy.data = dict(data)
        copy._index_values(copy.data, ())
        copy.lines |= {place: line for place, line in self.lines.items() if place[: len(path)] != path}
        copy.origins = {**self.origins, path: origin}
        return copy

    def section(self, key: str) -> "Document":
        """The mapping under a top-level key, with its lines in this file; errors name the same file.

        Raises:
            InvalidFile: there is no mapping under the key.
        """
        if not isinstance(self.data.get(key), dict):
            raise InvalidFile(f"{self._where((key,))}: `{key}`: expected keys and values")
        part = Document("", self.source)
        part.data = self.data[key]
        part.lines = {path[1:]: line for path, line in self.lines.items() if path[:1] == (key,)}
        part.origins = {path[1:]: origin for path, origin in self.origins.items() if path[:1] == (key,)}
        return part

    def _index(self, node: yaml.Node, path: KeyPath) -> None:
        self.lines[path] = node.start_mark.line + 1
        if len(self.lines) > MOST_VALUES:
            raise InvalidFile(f"{self.source}: more than {MOST_VALUES:,} values; references (`*name`) count each time")
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

    def _index_values(self, value: Any, path: KeyPath) -> None:
        self.lines[path] = 0
        if isinstance(value, Mapping):
            for key, inner in value.items():
                self._index_values(inner, (*path, key))
        elif isinstance(value, list | tuple):
            for position, inner in enumerate(value):
                self._index_values(inner, (*path, position))

    def line(self, path: KeyPath) -> int:
        """The line of the deepest known part of `path`; 0 where the values come from no file."""
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

    def unknown(self, path: KeyPath, known: Iterable[str]) -> InvalidFile:
        """The error that the last key of `path` is none of those that are known there."""
        key = ".".join(map(str, path))
        return InvalidFile(f"{self._where(path)}: `{key}`: {_unknown(str(path[-1]), sorted(known))}")

    def _explain(self, error: ValidationError, model: type[BaseModel]) -> str:
        problems = error.errors(include_url=False)
        # A misspelt key is also a missing one: the misspelling is the news.
        first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
        inside: KeyPath = getattr(first.get("ctx", {}).get("error"), "path", ())
        path = (*self._real_path(first["loc"], first["type"] == "missing"), *inside)
        key = ".".join(str(part) for part in path) or "(top)"
        text = _plain(first)
        # Each branch of a union was tried, and says what it takes.
        alike = [p for p in problems if p["loc"][:-1] == first["loc"][:-1] and self._real_path(p["loc"], False) == path]
        taken = [_plain(problem) for problem in alike if _plain(problem).startswith(EXPECTED)]
        if len(taken) > 1:
            text = EXPECTED + " or ".join(dict.fromkeys(branch.removeprefix(EXPECTED) for branch in taken))
            problems = problems[: len(problems) - len(taken) + 1]
        if first["type"] == "extra_forbidden":
            text = _unknown(str(first["loc"][-1]), sorted(_known_keys(model, first["loc"])))
        elif first["type"] != "missing" and not isinstance(first["input"], dict | list | tuple | BaseModel):
            text = f"{text}, found {first['input']!r}"
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return f"{self._where(path)}: `{key}`: {text}{more}"

    def _where(self, path: KeyPath) -> str:
        for place, origin in self.origins.items():
            if place[: len(path)] == path[: len(place)]:
                return origin
        line = self.line(path)
        return f"{self.source}, line {line}" if line else self.source

    def _real_path(self, location: KeyPath, missing: bool) -> KeyPath:
        """Drop from pydantic's location what names a union's branch, or a place in a list that the file has not."""
        path: KeyPath = ()
        for index, part in enumerate(location):
            if (*path, part) in self.lines or (missing and index == len(location) - 1):
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
    if problem.startswith("but ") and getattr(error, "context", None):  # half a sentence
        problem = f"{getattr(error, 'context', '')}, {problem}"
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def _plain(problem: "ErrorDetails") -> str:
    """What pydantic says, in the words of a YAML file."""
    words = PLAIN.get(problem["type"])
    return problem["msg"].removeprefix("Value error, ") if words is None else words.format(**problem.get("ctx", {}))


def _unknown(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, 1)
    hint = f"; did you mean `{close[0]}`?" if close else ""
    return f"unknown key; known here: {', '.join(known) or 'none'}{hint}"


def _known_keys(model: type[BaseModel], location: KeyPath) -> set[str]:
    """Keys allowed beside the last part of pydantic's `location`, as far as the types can be followed."""
    current: Any = model
    for part in location[:-1]:
        current = _step_into(current, part)
    models = [member for member in (current, *get_args(current)) if _is_model(member)]
    return {key for member in models for key in member.model_fields}


def _step_into(annotation: Any, part: str | int) -> Any:
    """The type found at `part` below a type, or None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field is not None else None
    if hasattr(annotation, "__metadata__"):
        return _step_into(arguments[0], part)
    if origin in (Union, types.UnionType):
        named = [member for member in arguments if _branch_name(member) == part]
        return next((found for found in (*named, *(_step_into(m, part) for m in arguments)) if found is not None), None)
    if origin is dict:
        return arguments[1]
    return arguments[0] if origin in (list, tuple) else None


def _branch_name(member: Any) -> str | None:
    """What pydantic's locations call a branch of a union: its `kind`, or the name of its class."""
    if not _is_model(member):
        return None
    kind = member.model_fields.get("kind")
    values = get_args(kind.annotation) if kind is not None and get_origin(kind.annotation) is Literal else ()
    return str(values[0]) if values else str(member.__name__)


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)
