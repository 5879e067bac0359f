"""Which kind of YAML file is meant and which was given: a search, a space or an architecture."""

from typing import TYPE_CHECKING, Literal

from hybridsearch.errors import InvalidFile

if TYPE_CHECKING:
    from hybridsearch.yaml_files import Document

Kind = Literal["search", "space", "architecture"]
USES = {
    "search": "`hybridsearch search {file}` runs it",
    "space": "`hybridsearch spaces show {file}` shows it, and a file with `space: {file}` searches it",
    "architecture": "`hybridsearch train` and `bench` take it",
}


def expect(document: "Document", kind: Kind) -> "Document":
    """The document itself, if it may be of this kind; whether it is right is seen when it is validated.

    Raises:
        InvalidFile: it is of another kind; the text says what takes it.
    """
    found = kind_of(document)
    if found is not None and found != kind:
        use = USES[found].format(file=document.source)
        raise InvalidFile(f"{document.source}: describes {_article(found)}, not {_article(kind)}; {use}")
    return document


def kind_of(document: "Document") -> Kind | None:
    """The kind that a document's keys tell of, if they do."""
    keys = document.data.keys()
    if "space" in keys:
        return "search"
    if "mixers" in keys:
        return "space"
    if "architecture" in keys or isinstance(document.data.get("layers"), list):
        return "architecture"
    return None


def _article(kind: Kind) -> str:
    return f"{'an' if kind == 'architecture' else 'a'} {kind}"
