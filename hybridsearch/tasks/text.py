"""Text files as tokens: bytes (or a `tokenizer.json`), split into training and validation, packed into two flat files.

Packing reads the text once, in pieces of 1 MB, so files may be larger than memory; training then reads windows of the
packed tokens through a memory map. The last part of every file is for validation, so that each file is in both parts.
Nothing here knows a model.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridsearch.errors import InvalidFile, InvalidSetting, StoreUnavailable

Tokens = NDArray[Any]
"""[n] unsigned integers."""
PIECE = 1 << 20
"""Bytes read at once. Pieces end at line ends, so that a tokenizer sees whole lines."""
FORMAT = 1


class Tokenizer(Protocol):
    """Text to token numbers and back."""

    vocabulary: int

    def encode(self, text: str) -> Tokens:
        """Numbers of a text's tokens, without any added at the start or the end."""

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """Pieces of text as the tokens come; what is no text yet is held back."""


class ByteTokenizer:
    """The 256 bytes of UTF-8 text."""

    vocabulary = 256

    def encode(self, text: str) -> Tokens:
        """See `Tokenizer`."""
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """See `Tokenizer`. Bytes that are no UTF-8 become U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in tokens:
            if piece := decoder.decode(bytes([token])):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest


class FileTokenizer:
    """A `tokenizer.json` of the Hugging Face `tokenizers` library.

    Raises:
        InvalidFile: the file is missing or no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library  # 0.1 s; most runs are on bytes

        if not path.is_file():
            raise InvalidFile(f"{path}: no such file; give a tokenizer.json, or leave it out to train on bytes")
        try:
            self._library = Library.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for anything wrong in the file
            raise InvalidFile(f"{path}: not a tokenizer.json: {str(error)[:200]}") from None
        self.vocabulary = int(self._library.get_vocab_size())

    def encode(self, text: str) -> Tokens:
        """See `Tokenizer`."""
        return np.asarray(self._library.encode(text, add_special_tokens=False).ids, dtype=_smallest(self.vocabulary))

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """See `Tokenizer`. A text may change while its last character is incomplete, so that is held back."""
        numbers: list[int] = []
        told = ""
        for token in tokens:
            numbers.append(token)
            text = self._library.decode(numbers)
            if text.startswith(told) and not text.endswith("\ufffd"):
                yield text[len(told) :]
                told = text
        if rest := self._library.decode(numbers)[len(told) :] if numbers else "":
            yield rest


def tokenizer(path: Path | None) -> Tokenizer:
    """The tokenizer of a file, or bytes."""
    return ByteTokenizer() if path is None else FileTokenizer(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What `corpus.json` says of packed text."""

    format: int
    digest: str
    """SHA-256 of the text, file after file."""
    vocabulary: int
    training_tokens: int
    validation_tokens: int
    validation_bytes: int
    """UTF-8 bytes behind the validation tokens."""
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Packed text, memory-mapped."""

    facts: Facts
    training: Tokens
    validation: Tokens

    @property
    def bytes_per_token(self) -> float:
        """Mean UTF-8 bytes of a validation token: 1 for bytes."""
        return self.facts.validation_bytes / max(1, self.facts.validation_tokens)


def pack(files: Sequence[Path], folder: Path, tokenizer: Tokenizer, *, validation_share: float) -> Corpus:
    """Tokenise text files into `folder` and open the result.

    Raises:
        InvalidFile: a file is missing, empty, unreadable or not UTF-8.
        InvalidSetting: no file, or a share outside (0, 0.5].
        StoreUnavailable: the folder cannot be written, or the disk is full.
    """
    if not files:
        raise InvalidSetting("no text was given; name at least one UTF-8 file")
    if not 0.0 < validation_share <= 0.5:
        raise InvalidSetting(f"validation share {validation_share:g} is not above 0 and up to 0.5")
    cuts = [_cut(path, validation_share) for path in files]
    digest = hashlib.sha256()
    dtype = _smallest(tokenizer.vocabulary)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        training = [_pieces(path, 0, cut) for path, cut in zip(files, cuts, strict=True)]
        validation = [_pieces(path, cut, None) for path, cut in zip(files, cuts, strict=True)]
        trained, _ = _write(folder / "training.bin", training, tokenizer, dtype, digest)
        validated, size = _write(folder / "validation.bin", validation, tokenizer, dtype, digest)
        facts = Facts(
            format=FORMAT, digest=digest.hexdigest(), vocabulary=tokenizer.vocabulary, training_tokens=trained,
            validation_tokens=validated, validation_bytes=size, files=tuple(path.name for path in files),
        )  # fmt: skip
        beside = folder / ".corpus.json"
        beside.write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")
        beside.replace(folder / "corpus.json")
    except OSError as error:
        raise StoreUnavailable(f"{folder} cannot be written: {error.strerror}; choose another folder") from None
    return open_packed(folder)


def open_packed(folder: Path) -> Corpus:
    """The text that `pack` left in a folder.

    Raises:
        InvalidFile: there is none, or it is damaged.
    """
    try:
        values = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        facts = Facts(**{**values, "files": tuple(values["files"])})
        dtype = _smallest(facts.vocabulary)
        parts = [_mapped(folder / f"{part}.bin", dtype) for part in ("training", "validation")]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidFile(f"{folder}: no packed text here ({type(error).__name__}); start a new run") from None
    if [len(part) for part in parts] != [facts.training_tokens, facts.validation_tokens] or facts.format != FORMAT:
        raise InvalidFile(f"{folder}: the packed text is incomplete; start a new run")
    return Corpus(facts, *parts)


def check_length(corpus: Corpus, context: int) -> None:
    """Refuse text that holds no whole window.

    Raises:
        InvalidSetting: a part is not longer than `context` tokens.
    """
    facts = corpus.facts
    shortest = min(facts.training_tokens, facts.validation_tokens)
    if shortest <= context:
        remedy = f"or a context of at most {shortest - 1}" if shortest > 1 else "there is almost none"
        raise InvalidSetting(
            f"the text gives {facts.training_tokens} tokens to train and {facts.validation_tokens} to validate on, but "
            f"context {context} needs {context + 1} in each; give more text, {remedy}"
        )


def batch(tokens: Tokens, count: int, context: int, generator: torch.Generator) -> Tensor:
    """[count, context + 1] int64: windows at random places, inputs and targets together."""
    starts = torch.randint(len(tokens) - context, (count,), generator=generator).numpy()
    return torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))


def windows(tokens: Tokens, count: int, context: int, limit: int) -> Iterator[Tensor]:
    """Batches [<= count, context + 1] of the first `limit` predictions, window after window without overlap."""
    total = max(1, min(limit, len(tokens) - 1) // context)
    for first in range(0, total, count):
        starts = np.arange(first, min(first + count, total)) * context
        yield torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))


def _cut(path: Path, share: float) -> int:
    """Byte at which a file's validation part starts: the start of a character."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise InvalidFile(f"{path}: empty; give a file with text")
        cut = int(size * (1.0 - share))
        with path.open("rb") as file:
            file.seek(cut)
            start = file.read(4)
    except FileNotFoundError:
        raise InvalidFile(f"{path}: no such file") from None
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read: {error.strerror}") from None
    return cut + next((i for i, byte in enumerate(start) if byte & 0xC0 != 0x80), 0)


def _pieces(path: Path, start: int, end: int | None) -> Iterator[str]:
    """The text between two bytes of a file, in pieces that end at line ends where lines are shorter than 4 MB."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    kept, position = "", start
    with path.open("rb") as file:
        file.seek(start)
        while raw := file.read(PIECE if end is None else min(PIECE, end - position)):
            kept += _decoded(decoder, raw, path, position)
            position += len(raw)
            line_end = kept.rfind("\n") + 1 or (len(kept) if len(kept) > 4 * PIECE else 0)
            if line_end:
                yield kept[:line_end]
                kept = kept[line_end:]
    kept += _decoded(decoder, b"", path, position, final=True)
    if kept:
        yield kept


def _decoded(decoder: codecs.IncrementalDecoder, raw: bytes, path: Path, position: int, *, final: bool = False) -> str:
    held = len(decoder.getstate()[0])
    try:
        return decoder.decode(raw, final)
    except UnicodeDecodeError as error:
        place = position - held + error.start
        raise InvalidFile(f"{path}: not UTF-8 text (byte {place}); save it as UTF-8") from None


def _write(
    path: Path, texts: Sequence[Iterator[str]], tokenizer: Tokenizer, dtype: np.dtype[Any], digest: Any
) -> tuple[int, int]:
    """Tokens and UTF-8 bytes written."""
    tokens = size = 0
    with path.open("wb") as file:
        for text in texts:
            for piece in text:
                raw = piece.encode()
                digest.update(raw)
                numbers = tokenizer.encode(piece).astype(dtype)
                file.write(numbers.tobytes())
                tokens, size = tokens + len(numbers), size + len(raw)
    return tokens, size


def _mapped(path: Path, dtype: np.dtype[Any]) -> Tokens:
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def _smallest(vocabulary: int) -> np.dtype[Any]:
    """The smallest type that holds every token number."""
    return np.dtype(np.uint8 if vocabulary <= 1 << 8 else np.uint16 if vocabulary <= 1 << 16 else np.uint32)
