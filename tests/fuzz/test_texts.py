"""Tables of texts, pairs, tagged words and tokenizer files, mutated: read, or one line for each fault, in bounded time."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from compress.data.text import conll, sentence_pairs, text
from tests.fuzz.mutations import check, generator, inputs, mutated_table, mutated_text

LABELS = ("yes", "no", "maybe")
ROWS = [(f"a cat {number} runs", f"a dog sleeps {number}", LABELS[number % 3]) for number in range(12)]


def separated(mark):
    rows = [("text", "other", "label"), *ROWS]
    return "".join(mark.join(f'"{field}"' for field in row) + "\n" for row in rows).encode()


JSON_LINES = "".join(json.dumps(dict(zip(("text", "other", "label"), row, strict=True))) + "\n" for row in ROWS).encode()
PAIRS = "".join(f"{first}\t{second}\t{number / 4}\n" for number, (first, second, _) in enumerate(ROWS)).encode()
TAGGED = ("-DOCSTART- O\n\n" + "a O\ncat B-animal\nruns O\n\ndog B-animal\n, O\n\n" * 8).encode()


@pytest.fixture
def tokenizer(tmp_path):
    words = ["[PAD]", "[UNK]", "a", "cat", "dog", "runs"]
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def loaded(splits):
    for part in (splits.train, splits.validation, splits.test, splits.calibration):
        part.load(np.arange(len(part)))


SOURCES = {
    "csv": (text, "t.csv", separated(","), {"second": "other"}),
    "tsv": (text, "t.tsv", separated("\t"), {}),
    "no labels": (text, "t.txt", separated("\t"), {"label": "none"}),
    "numbered": (text, "t.csv", separated(","), {"text": 0, "label": 2}),
    "jsonl": (text, "t.jsonl", JSON_LINES, {"second": "other"}),
    "pairs": (sentence_pairs, "p.tsv", PAIRS, {}),
    "conll": (conll, "c.txt", TAGGED, {}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_tables(name, tmp_path, tokenizer):
    source, file, content, options = SOURCES[name]
    rnd = generator(f"text {name}")

    def read(given):
        (tmp_path / file).write_bytes(given)
        loaded(source(train=tmp_path / file, tokenizer=tokenizer, length=8, calibration=4, **options))

    assert check(read, content) == ()
    for _ in range(inputs(60)):
        check(read, mutated_text(content, rnd))


def test_tokenizer_files(tmp_path, tokenizer):
    (tmp_path / "t.csv").write_bytes(separated(","))
    table, rnd = json.loads(tokenizer.read_text("utf-8")), generator("tokenizer")

    def read(given):
        tokenizer.write_bytes(given)
        loaded(text(train=tmp_path / "t.csv", tokenizer=tokenizer, length=8, calibration=4))

    assert check(read, json.dumps(table).encode()) == ()
    for number in range(inputs(80)):
        content = json.dumps(table).encode()
        check(read, mutated_text(content, rnd) if number % 2 else json.dumps(mutated_table(table, rnd)).encode())


HOSTILE_PARTS = {
    "a pattern that takes any time": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+(a+)+(a+)+b"}, "behavior": "Isolated", "invert": False}
    },
    "a replacement that fills memory": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}] * 4,
        }
    },
}


@pytest.mark.parametrize("part", HOSTILE_PARTS)
def test_tokenizers_that_hang_or_fill_memory(part, tmp_path, tokenizer):
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text("utf-8")) | HOSTILE_PARTS[part]))
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{'a' * 60},{'xyz'[n % 3]}\n" for n in range(12)))
    faults = check(lambda: loaded(text(train=tmp_path / "t.csv", tokenizer=tokenizer, length=8, calibration=2)))
    assert len(faults) == 1 and "tokenizer.json" in faults[0]
