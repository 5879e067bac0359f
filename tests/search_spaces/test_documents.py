import re
from pathlib import Path

import pytest

from hybridsearch.search_spaces import catalog, encoding, sampling, size, space
from hybridsearch.seeds import stream
from hybridsearch.yaml_files import Document

ROOT = Path(__file__).parents[2]
SPACES = ROOT / "docs" / "spaces.md"
README = ROOT / "search_spaces" / "README.md"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", [*blocks(SPACES, "yaml"), *blocks(README, "yaml")])
def test_the_spaces_shown_can_be_searched(text: str) -> None:
    shown = catalog.load(Document(text, "docs"))
    assert shown.violations(sampling.sample(shown, stream(0, "docs"))) == []


@pytest.mark.parametrize("text", blocks(SPACES, "python"))
def test_the_program_shown_runs(text: str) -> None:
    exec(compile(text, "docs/spaces.md", "exec"), {})


def test_every_option_of_every_kind_is_documented() -> None:
    menu = SPACES.read_text().split("## The menu")[1].split("```")[0]
    rows = {
        kind: set(re.findall(r"`(\w+)`", options))
        for kind, options in re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", menu, re.MULTILINE)
    }
    for options in space.LINES:
        known = set(options.model_fields)
        kind = str(options.model_fields["kind"].default)
        assert rows[kind] == known - {"kind"}, kind


def test_the_sizes_of_the_presets_are_those_documented() -> None:
    text = SPACES.read_text()
    for name in catalog.presets():
        counted = size.count(catalog.load(name))
        found = counted.architectures
        parameters = len(encoding.parameters(catalog.load(name)))
        if counted.exact:
            assert re.search(rf"^\| `{name}` \|.*\| {found:,} \| {parameters} \|$", text, re.M), name
            continue
        digits, power = re.fullmatch(r"(\d)e\+(\d+)", f"{found:.0e}").groups()  # type: ignore[union-attr]
        assert re.search(rf"^\| `{name}` \|.*\| at most {digits} x 10\^{int(power)} \| {parameters} \|$", text, re.M), (
            name
        )


def test_every_file_is_on_the_map() -> None:
    named = set(re.findall(r"`(\w+\.py)`", README.read_text()))
    assert {path.name for path in (ROOT / "search_spaces").glob("*.py")} <= named
