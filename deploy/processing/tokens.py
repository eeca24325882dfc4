"""Texts to ids of a fixed length, by a tokenizer's own file (``tokenizer.json`` of Hugging Face's tokenizers)."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from profiles.errors import UserError

FILE = "tokenizer.json"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Names of what a model of texts is given, as models of transformers call them."""

Arrays = dict[str, npt.NDArray[np.int64]]


@final
class Tokenizer:
    """A tokenizer that gives ids of one length: longer texts are cut, shorter ones filled up.

    Args:
        path: of ``tokenizer.json``, or of the folder that holds it.
        length: tokens of a sample.
        names: of the inputs that the model takes, of ``INPUTS``.

    Attributes:
        names: of the inputs.
        cut: texts so far that were longer.
        content: the tokenizer's own file.

    Raises:
        UserError: the package is missing, there is no such file, it is none, or other names.
    """

    def __init__(self, path: Path, length: int, names: Sequence[str] = INPUTS[:2]) -> None:
        if unknown := [name for name in names if name not in INPUTS]:
            raise UserError(f"data: inputs are of {', '.join(INPUTS)}; given: {', '.join(unknown)}")
        self.names, self.length, self.cut = tuple(names), length, 0
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise UserError(f"data: tokenizer {path}: no {FILE} there; it comes with a model, beside its config.json")
        content = file.read_bytes()
        self.content = content
        self.digest = hashlib.sha256(content).hexdigest()
        try:
            library = importlib.import_module("tokenizers")
        except ModuleNotFoundError:
            raise UserError("data: texts need the package tokenizers; pip install 'edge-compress[text]'") from None
        try:
            self._tokenizer: Any = library.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library's own class of errors is Exception
            raise UserError(f"data: tokenizer {file}: not a tokenizer ({str(error).splitlines()[0][:120]})") from None
        marks = self._tokenizer.num_special_tokens_to_add(True)
        if length <= marks:
            raise UserError(f"data: length = {length} has no room for words beside {marks} marks; take a greater one")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=length)  # by the library, which keeps the marks at both ends
        self._fill = self._filling()

    def _filling(self) -> int:
        """Return the id that fills up; hidden by the mask, so any does where the vocabulary has none for it."""
        for word in ("[PAD]", "<pad>", "<|endoftext|>"):
            if (known := self._tokenizer.token_to_id(word)) is not None:
                return int(known)
        return 0

    def encode(self, texts: Sequence[str], others: Sequence[str] | None = None) -> Arrays:
        """Return (texts, length) of int64 by name; of a text and another where there are ``others``.

        Example: with a vocabulary of words, "two cats" at a length of 4 gives ids [101, 2048, 8870, 102] and a mask of ones.
        """
        pairs: list[Any] = list(texts) if others is None else list(zip(texts, others, strict=True))
        return self._arrays(self._tokenizer.encode_batch(pairs))

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> tuple[Arrays, npt.NDArray[np.int64]]:
        """Return ids of sentences in words, and of each token the number of its word; -1 for what is none, or not its first.

        The numbers are of shape (sentences, length).
        """
        found = self._tokenizer.encode_batch([list(words) for words in sentences], is_pretokenized=True)
        numbers = np.full((len(found), self.length), -1, np.int64)
        for row, encoding in enumerate(found):
            before = None
            for place, word in enumerate(encoding.word_ids):
                if word is not None and word != before:
                    numbers[row, place] = word
                before = word
        return self._arrays(found), numbers

    def _arrays(self, encodings: Sequence[Any]) -> Arrays:
        shape = len(encodings), self.length
        arrays = {name: np.zeros(shape, np.int64) for name in self.names}
        if "input_ids" in arrays:
            arrays["input_ids"][:] = self._fill
        for row, encoding in enumerate(encodings):
            self.cut += bool(encoding.overflowing)
            values = {
                "input_ids": encoding.ids,
                "attention_mask": encoding.attention_mask,
                "token_type_ids": encoding.type_ids,
            }
            for name, array in arrays.items():
                array[row, : len(encoding.ids)] = values[name]
        return arrays

    def as_json(self) -> dict[str, Any]:
        """Describe what was done to a text, for the bundle."""
        return {"tokenizer_sha256": self.digest, "length": self.length, "inputs": list(self.names), "fill_id": self._fill}
