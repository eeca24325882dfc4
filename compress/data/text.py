"""Texts: classes of texts, pairs of sentences with how alike they are, and words with tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Le

from compress.data.base import NamedSamples, Splits, assign_splits
from compress.data.options import Seed, checked_options
from compress.data.text_files import Column, read_columns, read_conll, read_lines
from deploy.engines.inputs import rows
from deploy.processing.preprocessing.words import WORD
from deploy.processing.tokens import FILE, INPUTS, Tokenizer
from profiles.errors import UserError

Length = Annotated[int, Ge(2), Le(8192)]
"""Tokens of a sample."""

UNTAGGED = -2
"""As ``compress.losses.base`` has it, which knows no data."""

NONE = "none"
OUTSIDE = "O"
Labelled = tuple[dict[str, npt.NDArray[np.int64]], npt.NDArray[Any], Sequence[Any]]
"""Inputs by name, labels, and the texts."""


@checked_options("data: text")
def text(
    *,
    train: Path,
    tokenizer: Path,
    validation: Path | None = None,
    test: Path | None = None,
    text: Column = "text",
    second: Column | None = None,
    label: Column = "label",
    length: Length = 128,
    inputs: Sequence[str] = INPUTS[:2],
    unlabelled: Path | None = None,
    held_out_validation: float = 0.1,
    held_out_test: float = 0.1,
    calibration: int = 256,
    seed: Seed = 0,
) -> Splits:
    """Read texts and their classes from tables (``.csv``, ``.tsv``, ``.jsonl``).

    Args:
        train, validation, test: tables of the same columns; what is missing is held out of train.
        tokenizer: ``tokenizer.json`` of the model, or the folder with it.
        text, second, label: columns by name, of tables whose first line has names, or by number from 0. ``second``: of the
            other text of a pair. ``label = "none"``: there are none.
        length: tokens of a sample; longer texts are cut, and how many is said.
        inputs: that the model takes.
        unlabelled: a table of texts without labels, which are added to train for losses that ask the teacher alone.

    Raises:
        UserError: files, columns or the tokenizer are not there, or are of another kind.
    """
    reader = Tokenizer(tokenizer, length, inputs)
    columns = [text, *([second] if second is not None else []), *([label] if label != NONE else [])]
    tables = {name: read_columns(file, columns) for name, file in _given(train, validation, test).items()}
    texts = 1 if second is None else 2
    classes = _classes(table[texts] for table in tables.values()) if label != NONE else ()
    numbers = {name: number for number, name in enumerate(classes)}
    parts: dict[str, Labelled] = {}
    for name, table in tables.items():
        labels = [numbers[each] for each in table[texts]] if classes else [-1] * len(table[0])
        second_texts = table[1] if texts == 2 else None
        raws = list(table[0]) if second_texts is None else [list(pair) for pair in zip(table[0], second_texts, strict=True)]
        parts[name] = reader.encode(table[0], second_texts), np.array(labels, np.int64), raws
    chosen = assign_splits(
        {name: len(labels) for name, (_, labels, _) in parts.items()},
        validation=held_out_validation,
        test=held_out_test,
        calibration=calibration,
        seed=seed,
    )
    more = None
    if unlabelled:
        table = read_columns(unlabelled, columns[:texts])
        raws = list(table[0]) if texts == 1 else [list(pair) for pair in zip(*table, strict=True)]
        more = reader.encode(*table), np.full(len(raws), -1), raws
    return _splits(parts, chosen, classes, reader, {"use": "text", "pairs": texts == 2}, more)


@checked_options("data: sentence_pairs")
def sentence_pairs(
    *,
    train: Path,
    tokenizer: Path,
    validation: Path | None = None,
    test: Path | None = None,
    first: Column = 0,
    second: Column = 1,
    score: Column = 2,
    length: Length = 64,
    inputs: Sequence[str] = INPUTS[:2],
    held_out_validation: float = 0.1,
    held_out_test: float = 0.1,
    calibration: int = 256,
    seed: Seed = 0,
) -> Splits:
    """Read pairs of sentences and how alike they are, for a model that embeds one sentence (the task ``similarity``).

    A sample is one sentence; its target is the number of its pair and the pair's score, (samples, 2). The two sentences of
    a pair stay in the same split.

    Raises:
        UserError: files, columns or the tokenizer are not there, or scores that are no numbers.
    """
    reader = Tokenizer(tokenizer, length, inputs)
    files = _given(train, validation, test)
    tables = {name: read_columns(file, [first, second, score]) for name, file in files.items()}
    parts: dict[str, Labelled] = {}
    for name, (ours, theirs, scores) in tables.items():
        both = [sentence for pair in zip(ours, theirs, strict=True) for sentence in pair]
        values = np.repeat(_numbers(files[name], scores), 2)
        targets = np.stack([np.arange(len(both)) // 2, values], axis=1).astype(np.float64)
        parts[name] = reader.encode(both), targets, both
    pairs = assign_splits(
        {name: len(scores) // 2 for name, (_, scores, _) in parts.items()},
        validation=held_out_validation,
        test=held_out_test,
        calibration=calibration // 2,
        seed=seed,
    )
    chosen = {name: (part, np.repeat(2 * each, 2) + np.tile([0, 1], len(each))) for name, (part, each) in pairs.items()}
    return _splits(parts, chosen, (), reader, {"use": "text", "pairs": False})


@checked_options("data: conll")
def conll(
    *,
    train: Path,
    tokenizer: Path,
    validation: Path | None = None,
    test: Path | None = None,
    length: Length = 128,
    inputs: Sequence[str] = INPUTS[:2],
    unlabelled: Path | None = None,
    held_out_validation: float = 0.1,
    held_out_test: float = 0.1,
    calibration: int = 256,
    seed: Seed = 0,
) -> Splits:
    """Read sentences with a tag a word, as of named entities (``B-person``, ``I-person``, ``O``).

    Targets are (samples, length): the tag of each word at its first token, -1 at all others.

    Args:
        unlabelled: a text a line, without tags, cut into words as on a device (``deploy.processing.preprocessing.words``);
            added to train, -2 at the words, for losses that ask the teacher alone.

    Raises:
        UserError: files or the tokenizer are not there, or are of another kind.
    """
    reader = Tokenizer(tokenizer, length, inputs)
    sentences = {name: read_conll(file) for name, file in _given(train, validation, test).items()}
    known = {tag for part in sentences.values() for _, tags in part for tag in tags}
    classes = (OUTSIDE, *sorted(known - {OUTSIDE}))
    numbers = {name: number for number, name in enumerate(classes)}
    parts: dict[str, Labelled] = {}
    for name, part in sentences.items():
        arrays, words = reader.encode_words([words for words, _ in part])
        tags = [np.array([*(numbers[tag] for tag in tags), -1]) for _, tags in part]  # the last is of word -1: none
        targets = np.stack([own[row] for own, row in zip(tags, words, strict=True)]).astype(np.int64)
        parts[name] = arrays, targets, [list(words) for words, _ in part]
    chosen = assign_splits(
        {name: len(tags) for name, (_, tags, _) in parts.items()},
        validation=held_out_validation,
        test=held_out_test,
        calibration=calibration,
        seed=seed,
    )
    more = None
    if unlabelled:
        untagged = [WORD.findall(line) for line in read_lines(unlabelled)]
        arrays, words = reader.encode_words(untagged)
        more = arrays, np.where(words >= 0, UNTAGGED, -1).astype(np.int64), [list(each) for each in untagged]
    return _splits(parts, chosen, classes, reader, {"use": "words"}, more)


def _given(train: Path, validation: Path | None, test: Path | None) -> dict[str, Path]:
    files = {"train": train, "validation": validation, "test": test}
    return {name: file for name, file in files.items() if file is not None and str(file) not in ("", ".")}


def _classes(columns: Any) -> tuple[str, ...]:
    """Return the names of classes, whole numbers in their order, other names in that of the alphabet."""
    names = {name for column in columns for name in column}
    return tuple(sorted(names, key=lambda name: (not _is_number(name), int(name) if _is_number(name) else 0, name)))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 19


def _numbers(file: Path, values: Sequence[str]) -> npt.NDArray[np.float64]:
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            numbers[row] = float(value)
        except ValueError:
            raise UserError(f"data: {file}: row {row + 1} has {value[:40]!r} for a score, which is a number") from None
    if not np.isfinite(numbers).all():
        raise UserError(
            f"data: {file}: row {int(np.flatnonzero(~np.isfinite(numbers))[0]) + 1} has a score that is no number"
        )
    return numbers


def _splits(
    parts: Mapping[str, Labelled],
    chosen: Mapping[str, tuple[str, npt.NDArray[np.int64]]],
    classes: tuple[str, ...],
    reader: Tokenizer,
    used: Mapping[str, Any],
    unlabelled: Labelled | None = None,
) -> Splits:
    samples: dict[str, Any] = {}
    for name, (part, indices) in chosen.items():
        arrays, labels, raws = parts[part]
        chosen_arrays, chosen_labels, chosen_raws = rows(arrays, indices), labels[indices], [raws[i] for i in indices]
        if name == "train" and unlabelled is not None:
            more, none, texts = unlabelled
            chosen_arrays = {each: np.concatenate([array, more[each]]) for each, array in chosen_arrays.items()}
            chosen_labels, chosen_raws = np.concatenate([chosen_labels, none]), [*chosen_raws, *texts]
        samples[name] = NamedSamples(chosen_arrays, chosen_labels, classes, chosen_raws)
    extra = 0 if unlabelled is None else len(unlabelled[1])
    total = sum(len(labels) for _, labels, _ in parts.values()) + extra
    notes = [f"{reader.cut} of {total} texts are longer than {reader.length} tokens, and cut"] if reader.cut else []
    notes += [f"{extra} texts of train have no labels"] if extra else []
    about, files = {**used, **reader.as_json()}, {FILE: reader.content}
    return Splits(**samples, classes=classes, preprocessing=about, files=files, notes=tuple(notes))
