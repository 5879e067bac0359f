"""Documents are executed: commands in the README parse, its tree names the files, its settings are valid."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from hybridsearch.cli.main import app, hoist
from hybridsearch.search_spaces import ready_made
from hybridsearch.settings import SearchSettings
from hybridsearch.yaml_files import Document

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
FOLDERS = ("hybridsearch", "kernels", "search_spaces", "workers", "cli", "db")
COMMAND = re.compile(r"^(?:\$ |    )?(hybridsearch [^`\n]+)$|`(hybridsearch [^`\n]+)`", re.MULTILINE)


def commands(text: str) -> list[str]:
    """Every command line of a text, whether it stands in a block or in a sentence."""
    found = [first or second for first, second in COMMAND.findall(text)]
    return [command for command in found if "..." not in command]


def parse(words: list[str]) -> None:
    """Parse a command line without running it; the verb's options are checked too."""
    shared, rest = hoist(words)
    group: Any = typer.main.get_command(app)
    context = group.make_context("hybridsearch", [*shared, *rest])
    while hasattr(group, "commands"):
        name, group, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        context = group.make_context(name, rest, parent=context)


CASES = [(document.name, command) for document in DOCUMENTS for command in commands(document.read_text())]


@pytest.mark.parametrize(("document", "command"), CASES)
def test_every_command_of_the_documents_parses(document: str, command: str) -> None:
    words = shlex.split(command.split(" > ")[0], comments=True)[1:]
    if len(words) == 1:  # a verb that a sentence speaks of
        assert words[0] in verbs()
    else:
        parse(words)


def verbs() -> set[str]:
    group: Any = typer.main.get_command(app)
    return set(group.commands)


def test_commands_are_found_and_a_wrong_one_is_refused() -> None:
    readme = {command.split()[1] for document, command in CASES if document == "README.md"}
    assert readme == verbs()
    for words in (["frobnicate"], ["search", "a", "--no-such"], ["spaces", "nothing"], ["export"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parse(words)


def test_the_examples_of_every_help_parse() -> None:
    group: Any = typer.main.get_command(app)
    for name, verb in group.commands.items():
        lines = [line.strip() for line in (verb.epilog or "").splitlines() if line.strip().startswith("hybridsearch")]
        assert lines, name
        for line in lines:
            parse(shlex.split(re.split(r" [|>] ", line)[0])[1:])


def test_the_readme_names_two_make_targets_that_exist() -> None:
    named = re.findall(r"^    make (\w+)", README, re.MULTILINE)
    assert named == ["search", "test"]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(named) <= targets
    assert set(re.findall(r"make (\w+)", (ROOT / "CONTRIBUTING.md").read_text())) <= targets


def tree() -> Iterator[str]:
    """The paths of the README's tree."""
    block = README[README.index("## The tree") :].split("```")[1]
    folder = ""
    for line in block.strip().splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        yield folder if name == folder else folder + name


def test_the_tree_of_the_readme_is_the_tree() -> None:
    named = list(tree())
    assert len(named) == len(set(named))
    for path in named:
        assert (ROOT / path).exists(), path
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.startswith("__") and "migrations" not in path.parts
    }
    kernels = {path for path in modules if path.startswith("kernels/") and path != "kernels/dispatch.py"}
    links = {path for path in modules if path.removeprefix("hybridsearch/").split("/")[0] in FOLDERS[1:]}
    own = (modules - kernels) - {path for path in links if path.startswith("hybridsearch/")}
    assert own == {path for path in named if path.endswith(".py")}


def test_the_settings_of_the_readme_are_valid() -> None:
    block = README.split("```yaml")[1].split("```")[0]
    settings = Document(block, "README.md").validate(SearchSettings)
    assert settings.space == "layers"


def test_the_readme_names_every_ready_made_search() -> None:
    line = next(line for line in README.splitlines() if line.startswith("hybridsearch search quickstart"))
    assert set(ready_made.searches()) == set(re.findall(r"\w+", line.split("search ", 1)[1])) & set(
        ready_made.searches()
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("http") or (document.parent / target).exists(), target
