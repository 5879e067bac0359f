from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from hybridsearch.errors import InvalidFile, InvalidSetting, StoreUnavailable
from hybridsearch.tasks import text
from hybridsearch.tasks.text import ByteTokenizer, FileTokenizer, pack


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A tokenizer of four words."""
    made = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "sat": 2, "?": 3}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_packed_bytes_are_the_text_and_nothing_is_lost_or_shared(tmp_path: Path) -> None:
    first, second = "über den Fluß\n" * 50, "日本語\n" * 90
    files = [write(tmp_path / "a.txt", first), write(tmp_path / "b.txt", second)]
    corpus = pack(files, tmp_path / "packed", ByteTokenizer(), validation_share=0.25)
    training, validation = bytes(corpus.training).decode(), bytes(corpus.validation).decode()
    for whole in (first, second):
        part = next(n for n in range(len(whole)) if whole[:n] in training and whole[n:] in validation and n > 10)
        assert part > 0
    assert len(training) + len(validation) == len(first) + len(second)
    assert corpus.facts.validation_bytes == len(corpus.validation)
    assert 0.2 < len(corpus.validation) / (len(corpus.training) + len(corpus.validation)) < 0.3


def test_pieces_do_not_split_characters_or_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PIECE", 5)
    content = "ä€𝄞 line\nnext €€€€ line\n" * 20
    path = write(tmp_path / "a.txt", content)
    pieces = list(text._pieces(path, 0, None))
    assert "".join(pieces) == content
    assert all(piece.endswith("\n") for piece in pieces)
    assert len(pieces) > 10


def test_what_was_packed_opens_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "hello world\n" * 40)
    packed = pack([path], tmp_path / "packed", ByteTokenizer(), validation_share=0.1)
    path.unlink()
    again = text.open_packed(tmp_path / "packed")
    assert again.facts == packed.facts
    assert bytes(again.training) == bytes(packed.training)
    (tmp_path / "packed" / "training.bin").write_bytes(b"short")
    with pytest.raises(InvalidFile, match="incomplete"):
        text.open_packed(tmp_path / "packed")


def test_a_tokenizer_file_gives_its_tokens_and_their_bytes(tmp_path: Path, words: Path) -> None:
    path = write(tmp_path / "a.txt", "the cat sat\n" * 100)
    corpus = pack([path], tmp_path / "packed", FileTokenizer(words), validation_share=0.5)
    assert corpus.facts.vocabulary == 4
    assert list(corpus.training[:6]) == [0, 1, 2, 0, 1, 2]
    assert corpus.bytes_per_token == pytest.approx(4.0, rel=0.02)


def test_a_batch_holds_windows_of_the_text_and_follows_its_generator() -> None:
    tokens = np.arange(50, dtype=np.uint8)
    batches = [text.batch(tokens, 1000, 7, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    assert (batches[0].diff(dim=1) == 1).all()
    assert batches[0].shape == (1000, 8)
    assert {int(batches[0].min()), int(torch.cat(batches).max())} == {0, 49}, "both ends of the text are reached"


def test_validation_windows_predict_every_token_once() -> None:
    tokens = np.arange(23, dtype=np.uint8)
    targets = torch.cat([w[:, 1:].flatten() for w in text.windows(tokens, 2, 5, 1000)])
    assert targets.tolist() == list(range(1, 21))
    limited = torch.cat([w[:, 1:].flatten() for w in text.windows(tokens, 2, 5, 11)])
    assert limited.tolist() == list(range(1, 11))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"fine \xff no", r"not UTF-8 text \(byte 5\)"), (b"a" * 90 + "é".encode()[:1], r"byte 90")],
)
def test_bad_files_are_named_with_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InvalidFile, match=rf"a\.txt: .*{message}"):
        pack([write(tmp_path / "a.txt", content)], tmp_path / "packed", ByteTokenizer(), validation_share=0.1)


def test_the_place_of_a_bad_byte_counts_from_the_start_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "PIECE", 4)
    content = "äöü€".encode() * 3 + b"\xe2\x82x" + b"y" * 30
    with pytest.raises(InvalidFile, match=rf"byte {9 * 3}\)"):
        pack([write(tmp_path / "a.txt", content)], tmp_path / "packed", ByteTokenizer(), validation_share=0.1)


def test_missing_things_are_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="no such file"):
        pack([tmp_path / "absent.txt"], tmp_path / "packed", ByteTokenizer(), validation_share=0.1)
    with pytest.raises(InvalidSetting, match="at least one"):
        pack([], tmp_path / "packed", ByteTokenizer(), validation_share=0.1)
    with pytest.raises(InvalidFile, match="no packed text"):
        text.open_packed(tmp_path)
    with pytest.raises(InvalidFile, match="leave it out to train on bytes"):
        FileTokenizer(tmp_path / "absent.json")
    with pytest.raises(InvalidFile, match=r"not a tokenizer\.json"):
        FileTokenizer(write(tmp_path / "bad.json", "{}"))
    write(tmp_path / "file", "x")
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        pack([write(tmp_path / "a.txt", "abc")], tmp_path / "file" / "x", ByteTokenizer(), validation_share=0.1)


def test_text_that_is_too_short_is_refused_with_the_context_that_would_fit(tmp_path: Path) -> None:
    corpus = pack([write(tmp_path / "a.txt", "x" * 100)], tmp_path / "p", ByteTokenizer(), validation_share=0.1)
    with pytest.raises(InvalidSetting, match=r"90 tokens to train and 10 to validate .* context of at most 9"):
        text.check_length(corpus, 64)
    text.check_length(corpus, 9)


def test_decoding_holds_back_incomplete_characters(words: Path) -> None:
    assert list(ByteTokenizer().decode("a€b".encode())) == ["a", "€", "b"]
    assert list(ByteTokenizer().decode(b"a\xe2\x82")) == ["a", "\ufffd"]
    assert "".join(FileTokenizer(words).decode([0, 1, 2])) == "the cat sat"
