"""Texts to ids of a fixed length, by a tokenizer's own file (``tokenizer.json`` of Hugging Face's tokenizers).

The file comes with a model from elsewhere, and holds regular expressions and replacements that may take any time and
memory: it is read and run in a process of its own (``deploy.files.confined``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from deploy.files.confined import ConfinedError, Limits, call
from profiles.errors import UserError, first_line

FILE = "tokenizer.json"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Names of what a model of texts is given, as models of transformers call them."""

WORDS = "words"
"""Name of the array that holds each token's word."""

FILLING = ("[PAD]", "<pad>", "<|endoftext|>")
MOST_BYTES = 2**28
AT_ONCE = 4096
"""Texts that the library holds at a time; what it notes of each token is far more than the ids."""

IMPORTED_BY_READERS = ("tokenizers",)

Arrays = dict[str, npt.NDArray[np.int64]]


@final
class Tokenizer:
    """A tokenizer that gives ids of one length: longer texts are cut, shorter ones filled up.

    Args:
        path: of ``tokenizer.json``, or of the folder that holds it.
        length: tokens of a sample.
        names: of the inputs that the model takes, of ``INPUTS``.
        is_proven: whether it is of a bundle that was checked: its texts are then encoded in this process, at once.

    Attributes:
        names: of the inputs.
        cut: texts so far that were longer.
        content: the tokenizer's own file.

    Raises:
        UserError: the package is missing, there is no such file, it is none, or other names.
    """

    def __init__(self, path: Path, length: int, names: Sequence[str] = INPUTS[:2], *, is_proven: bool = False) -> None:
        if unknown := [name for name in names if name not in INPUTS]:
            raise UserError(f"data: inputs are of {', '.join(INPUTS)}; given: {', '.join(unknown)}")
        self.names, self.length, self.cut = tuple(names), length, 0
        self._file = path / FILE if path.is_dir() else path
        if not self._file.is_file():
            raise UserError(f"data: tokenizer {path}: no {FILE} there; it comes with a model, beside its config.json")
        if (size := self._file.stat().st_size) > MOST_BYTES:
            raise UserError(f"data: tokenizer {self._file}: {size} bytes; at most {MOST_BYTES} are read")
        if importlib.util.find_spec("tokenizers") is None:
            raise UserError("data: texts need the package tokenizers; pip install 'edge-compress[text]'")
        self.content = self._file.read_bytes()
        self.digest = hashlib.sha256(self.content).hexdigest()
        marks, self._fill = self._call("describe", {}, characters=0, held_bytes=0)
        self._opened = _opened(str(self._file), length) if is_proven else None
        if length <= marks:
            raise UserError(f"data: length = {length} has no room for words beside {marks} marks; take a greater one")

    def encode(self, texts: Sequence[str], others: Sequence[str] | None = None) -> Arrays:
        """Return (texts, length) of int64 by name; of a text and another where there are ``others``.

        Example: with a vocabulary of words, "two cats" at a length of 4 gives ids [101, 2048, 8870, 102] and a mask of ones.
        """
        return self._encoded(list(texts) if others is None else list(zip(texts, others, strict=True)), words=False)

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> tuple[Arrays, npt.NDArray[np.int64]]:
        """Return ids of sentences in words, and of each token the number of its word; -1 for what is none, or not its first.

        The numbers are of shape (sentences, length).
        """
        arrays = self._encoded([list(words) for words in sentences], words=True)
        numbers = arrays.pop(WORDS)
        return arrays, numbers

    def _encoded(self, texts: list[Any], *, words: bool) -> Arrays:
        names = [*self.names, *([WORDS] if words else [])]
        if self._opened is not None:
            arrays = _empty(len(texts), self.length, names, self._fill)
            self.cut += _fill_rows(self._opened, str(self._file), texts, arrays, 0)
            return arrays
        held_bytes = len(texts) * self.length * 8 * len(names)
        with tempfile.TemporaryDirectory() as folder:
            content = json.dumps(texts)
            (Path(folder) / "texts.json").write_text(content)
            asked = {"folder": folder, "names": names, "length": self.length, "fill": self._fill}
            self.cut += self._call("encode", asked, characters=len(content), held_bytes=held_bytes)
            return {name: np.load(Path(folder) / f"{name}.npy", allow_pickle=False) for name in names}

    def _call(self, reader: str, asked: dict[str, Any], *, characters: int, held_bytes: int) -> Any:
        size = self._file.stat().st_size
        cpu_s = 4 + size // 1_000_000 + characters // 100_000  # of libraries that take a megabyte of text a second
        memory_bytes = 2**30 + 64 * size + 32 * characters + 2 * held_bytes
        limits = Limits(memory_bytes=memory_bytes, cpu_s=cpu_s, wall_s=60.0 + 10 * cpu_s)
        try:
            return call(f"deploy.processing.tokens:{reader}", {"file": str(self._file.absolute()), **asked}, limits)
        except ConfinedError as error:
            raise UserError(f"data: tokenizer {self._file}: {error}: damaged, or made to do so") from None

    def as_json(self) -> dict[str, Any]:
        """Describe what was done to a text, for the bundle."""
        return {"tokenizer_sha256": self.digest, "length": self.length, "inputs": list(self.names), "fill_id": self._fill}


def describe(file: str) -> tuple[int, int]:
    """Return how many marks a tokenizer puts around a text, and the id that fills up; the confined reader's part.

    Raises:
        UserError: it is no tokenizer.
    """
    tokenizer = _read(file)
    # the mask hides what fills up, so any id does where the vocabulary has none for it
    known = (tokenizer.token_to_id(word) for word in FILLING)
    return tokenizer.num_special_tokens_to_add(True), next((number for number in known if number is not None), 0)


def encode(file: str, folder: str, names: Sequence[str], length: int, fill: int) -> int:
    """Write an array of each name of the texts in ``texts.json``, and return how many were cut; the confined reader's part.

    A text is a string, a pair of them, or, where the words' numbers are asked for, a list of words.

    Raises:
        UserError: the tokenizer cannot do so.
    """
    tokenizer = _opened(file, length)
    texts = json.loads((Path(folder) / "texts.json").read_text())
    arrays = _empty(len(texts), length, names, fill)
    cut = 0
    for begin in range(0, len(texts), AT_ONCE):
        cut += _fill_rows(tokenizer, file, texts[begin : begin + AT_ONCE], arrays, begin)
    for name, array in arrays.items():
        np.save(Path(folder) / f"{name}.npy", array)
    return cut


def _empty(count: int, length: int, names: Sequence[str], fill: int) -> Arrays:
    """Make arrays of no words."""
    return {name: np.full((count, length), {"input_ids": fill, WORDS: -1}.get(name, 0), np.int64) for name in names}


def _opened(file: str, length: int) -> Any:
    """Read a tokenizer that cuts at a length.

    Raises:
        UserError: it is none.
    """
    tokenizer = _read(file)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=length)  # by the library, which keeps the marks at both ends
    return tokenizer


def _fill_rows(tokenizer: Any, file: str, texts: Sequence[Any], arrays: Arrays, begin: int) -> int:
    given = [text if isinstance(text, str) or WORDS in arrays else tuple(text) for text in texts]
    try:
        encodings = tokenizer.encode_batch(given, is_pretokenized=WORDS in arrays)
    except (MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library's errors are Exceptions, its panics are no Exceptions
        raise UserError(f"data: tokenizer {file}: cannot encode the texts ({first_line(error, 120)})") from None
    for row, encoding in enumerate(encodings, begin):
        values = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
            WORDS: _first_of_words(encoding.word_ids) if WORDS in arrays else (),
        }
        for name, array in arrays.items():
            if len(values[name]) > array.shape[1]:
                raise UserError(f"data: tokenizer {file}: gives more than {array.shape[1]} ids though told to cut there")
            array[row, : len(values[name])] = values[name]
    return sum(bool(encoding.overflowing) for encoding in encodings)


def _first_of_words(words: Sequence[int | None]) -> list[int]:
    """Return the number of each token's word at its first token, -1 elsewhere."""
    before = [None, *words[:-1]]
    return [-1 if word is None or word == last else word for word, last in zip(words, before, strict=True)]


def _read(file: str) -> Any:
    """Read the library's tokenizer of a file.

    Raises:
        UserError: it is none.
    """
    from tokenizers import Tokenizer as LibraryTokenizer

    try:
        return LibraryTokenizer.from_str(Path(file).read_text("utf-8"))
    except (MemoryError, OSError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the library's errors are Exceptions, its panics are no Exceptions
        raise UserError(f"data: tokenizer {file}: not a tokenizer ({first_line(error, 120)})") from None
