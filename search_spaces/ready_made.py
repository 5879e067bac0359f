"""Ready-made searches by name, searches of the user's by path."""

from difflib import get_close_matches
from pathlib import Path

from hybridsearch import yaml_files
from hybridsearch.errors import InvalidSetting
from hybridsearch.yaml_files import Document

SEARCHES = Path(__file__).parent / "searches"
SPACES = Path(__file__).parent / "presets"


def searches() -> dict[str, Path]:
    """The files of the searches that come with the program, by name."""
    return {path.stem: path for path in sorted(SEARCHES.glob("*.yaml"))}


def find(source: str) -> Path:
    """The file of a search: a preset's name, or the path of a YAML file.

    Raises:
        InvalidSetting: no preset has this name, and it is no path of a YAML file.
    """
    known = searches()
    if source in known:
        return known[source]
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    if (SPACES / f"{source}.yaml").is_file():
        over = [name for name in known if yaml_files.read(known[name]).data.get("space") == source]
        ready = f"`hybridsearch search {over[0]}` searches it, and so does" if over else "it is searched by"
        raise InvalidSetting(f"`{source}` is a space, not a search; {ready} a file of your own with `space: {source}`")
    close = get_close_matches(source, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
    raise InvalidSetting(f"no search is called {source!r}{hint} (or give the path of a .yaml file)")


def read(source: str) -> Document:
    """A search as it was written, not yet validated.

    Raises:
        InvalidFile: the file is missing or no YAML.
        InvalidSetting: as `find`.
    """
    return yaml_files.read(find(source))
