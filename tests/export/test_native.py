from pathlib import Path

import pytest

from hybridsearch.errors import InvalidFile, StoreUnavailable
from hybridsearch.export import native
from hybridsearch.reporting.points import Spread
from hybridsearch.spec import canonical, cost
from hybridsearch.spec.architecture import Architecture


def test_what_is_written_reads_back_exactly(tmp_path: Path, architecture: Architecture) -> None:
    path = tmp_path / "new folder" / "a.yaml"
    native.write(path, native.text(architecture))
    assert canonical.canonical_json(native.read(path)) == canonical.canonical_json(architecture)
    assert [p.name for p in path.parent.iterdir()] == ["a.yaml"]


def test_counts_provenance_and_metrics_travel_along(tmp_path: Path, architecture: Architecture) -> None:
    path = tmp_path / "a.yaml"
    provenance = native.Provenance(study="demo", trial=7, settings_digest="ab12", versions={"torch": "2"})
    metrics = {"recall": Spread(value=1 / 3, low=0.25, high=0.5, count=3)}
    native.write(path, native.text(architecture, vocabulary=64, context=128, provenance=provenance, metrics=metrics))
    found = native.read_all(path)
    assert found.counts is not None
    assert found.counts.parameters_with_vocabulary == cost.parameters(architecture, 64)
    assert found.counts.state_bytes == cost.state_bytes(architecture, 128)
    assert found.provenance == provenance
    assert found.metrics is not None
    assert found.metrics["recall"] == native.Number(value=0.333333, low=0.25, high=0.5, count=3)
    assert path.read_text().startswith(f"# {canonical.readable_name(architecture)}: an architecture of hybridsearch")
    assert "&id" not in path.read_text(), "equal layers must be written out, not referred to"


def test_a_bare_description_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("width: 16\nlayers:\n  - mixer: {kind: gated_delta, heads: 2, head_dim: 8}\n    feed_forward: 32\n")
    assert native.read(path).width == 16


def test_an_edited_architecture_is_noticed_by_its_hash(tmp_path: Path, architecture: Architecture) -> None:
    path = tmp_path / "a.yaml"
    content = native.text(architecture)
    path.write_text(content.replace("feed_forward: 32", "feed_forward: 48", 1))
    line = 1 + content[: content.index("\nhash:") + 1].count("\n")
    with pytest.raises(InvalidFile, match=rf"a\.yaml, line {line}: `hash`: .* delete the hash"):
        native.read(path)
    path.write_text("\n".join(row for row in path.read_text().splitlines() if not row.startswith("hash:")))
    assert native.read(path).layers[0].feed_forward == 48


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("      heads: 2\n", "      headz: 2\n", r"`architecture.layers.0.mixer.headz`: unknown key"),
        ("format: 1", "format: 2", "`format`"),
        ("  width: 16", "  width: 0", "`architecture.width`: .*found 0"),
        ("  context: 4096", "  contexts: 4096", "`counts.contexts`: unknown key"),
        ("      kind: gated_delta", "      kind: rwkv", r"`architecture.layers.0.mixer"),
    ],
)
def test_errors_name_the_file_the_line_and_the_key(
    tmp_path: Path, architecture: Architecture, old: str, new: str, message: str
) -> None:
    path = tmp_path / "a.yaml"
    content = native.text(architecture)
    assert old in content
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(InvalidFile, match=rf"a\.yaml, line \d+: {message}"):
        native.read(path)


def test_the_line_is_that_of_the_mistake(tmp_path: Path, architecture: Architecture) -> None:
    path = tmp_path / "a.yaml"
    content = native.text(architecture)
    path.write_text(content.replace("      heads: 2\n", "      headz: 2\n", 1))
    line = 1 + content[: content.index("      heads: 2\n")].count("\n")
    with pytest.raises(InvalidFile, match=f"line {line}:"):
        native.read(path)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be written: "):
        native.write(tmp_path / "file" / "a.yaml", "x")
