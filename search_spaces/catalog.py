"""Spaces by name, by path, or given in place."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hybridsearch import yaml_files
from hybridsearch.errors import InvalidSetting
from hybridsearch.search_spaces.space import Space
from hybridsearch.yaml_files import Document

PRESETS = Path(__file__).parent / "presets"


def presets() -> dict[str, str]:
    """Name and description of every space that comes with the program."""
    return {name: str(yaml_files.read(path).data.get("description", "")) for name, path in _preset_files().items()}


def load(source: str | Path | Mapping[str, Any] | Document, folder: Path = Path()) -> Space:
    """A space: the name of a preset, the path of a YAML file (relative to `folder`), or the space itself.

    Raises:
        InvalidFile: the file is missing or breaks the grammar; file, line and key are in the text.
        InvalidSetting: no preset has this name.
    """
    return document(source, folder).validate(Space)


def document(source: str | Path | Mapping[str, Any] | Document, folder: Path = Path()) -> Document:
    """The space as it was written, not yet validated.

    Raises:
        InvalidFile: the file is missing or no YAML.
        InvalidSetting: no preset has this name.
    """
    if isinstance(source, Document):
        return source
    if isinstance(source, Mapping):
        return Document.of(source, "space")
    files = _preset_files()
    if str(source) in files:
        return yaml_files.read(files[str(source)])
    path = folder / source
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return yaml_files.read(path)
    close = get_close_matches(str(source), files, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(files)}"
    raise InvalidSetting(f"no space is called {str(source)!r}{hint} (or give the path of a .yaml file)")


def _preset_files() -> dict[str, Path]:
    # An installed preset is a file of the package, so the folder of this module holds it in every kind of install.
    return {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
