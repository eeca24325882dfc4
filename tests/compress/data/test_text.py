import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from compress.data.text import conll, sentence_pairs, text
from compress.losses.base import UNTAGGED
from profiles.errors import UserError

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "cat", "dog", "runs", "sleeps", "##s"]
PAD, CLS, SEP, UNK, A, CAT, DOG, RUNS, SLEEPS, S = range(10)


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer of ten words, as a model of transformers has one beside it."""
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    folder = tmp_path / "model"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def table(path, rows):
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    return path


def test_a_text_is_ids_and_a_mask_of_one_length(tmp_path, tokenizer):
    rows = [["text", "label"], ["a cat runs", "yes"], ["a dog sleeps a cat runs", "no"], ["a bird", "no"], ["dogs", "yes"]]
    file = table(tmp_path / "t.csv", rows)
    splits = text(train=file, validation=file, test=file, tokenizer=tokenizer, length=6, calibration=2)
    assert splits.classes == ("no", "yes")
    batch = splits.test.load(np.arange(4))
    assert batch.inputs["input_ids"].tolist() == [
        [CLS, A, CAT, RUNS, SEP, PAD],
        [CLS, A, DOG, SLEEPS, A, SEP],  # cut, and ended all the same
        [CLS, A, UNK, SEP, PAD, PAD],
        [CLS, DOG, S, SEP, PAD, PAD],
    ]
    assert batch.inputs["attention_mask"].tolist() == [[1] * 5 + [0], [1] * 6, [1] * 4 + [0] * 2, [1] * 4 + [0] * 2]
    assert batch.targets.tolist() == [1, 0, 0, 1]
    assert splits.notes == ("3 of 12 texts are longer than 6 tokens, and cut",)
    assert splits.preprocessing["length"] == 6


def test_texts_without_labels_are_of_train_alone(tmp_path, tokenizer):
    rows = [["text", "label"], ["a cat runs", "yes"], ["a dog", "no"], ["a bird", "no"], ["dogs", "yes"]]
    file = table(tmp_path / "t.csv", rows)
    more = table(tmp_path / "more.csv", [["text", "who"], ["a cat sleeps", "x"], ["a dog runs", "y"]])
    given = {"train": file, "validation": file, "test": file, "tokenizer": tokenizer, "length": 5, "calibration": 2}
    splits = text(**given, unlabelled=more)
    assert splits.train.load(np.arange(6)).targets.tolist() == [1, 0, 0, 1, -1, -1]
    assert splits.train.load(np.arange(4, 6)).inputs["input_ids"].tolist() == [
        [CLS, A, CAT, SLEEPS, SEP],
        [CLS, A, DOG, RUNS, SEP],
    ]
    assert splits.train.raw(5).value == "a dog runs"
    assert (splits.calibration.load(np.arange(2)).targets >= 0).all() and len(splits.validation) == 4
    assert splits.notes == ("2 texts of train have no labels",)
    with pytest.raises(UserError, match=r"no column 'text'; its first line has words"):
        text(**given, unlabelled=table(tmp_path / "wrong.csv", [["words"], ["a"]]))


def test_words_without_tags_are_known_from_tokens_that_begin_none(tmp_path, tokenizer):
    (tmp_path / "t.conll").write_text("a\tO\ncat\tB-animal\n\ndogs\tB-animal\n")
    (tmp_path / "more.txt").write_text("a dogs runs\n\n")
    file = tmp_path / "t.conll"
    given = {"train": file, "validation": file, "test": file, "tokenizer": tokenizer, "length": 6, "calibration": 1}
    splits = conll(**given, unlabelled=tmp_path / "more.txt")
    batch = splits.train.load(np.arange(2, 3))
    assert batch.inputs["input_ids"].tolist() == [[CLS, A, DOG, S, RUNS, SEP]]
    assert batch.targets.tolist() == [[-1, -2, -2, -1, -2, -1]]
    assert UNTAGGED == -2, "what losses read"
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="has no lines; a text a line"):
        conll(**given, unlabelled=tmp_path / "empty.txt")


def test_two_texts_are_told_apart_by_their_kind(tmp_path, tokenizer):
    lines = [{"q": "a cat", "a": "runs", "label": label} for label in (10, 9, 10)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    file = tmp_path / "t.jsonl"
    kinds = ("input_ids", "token_type_ids")
    splits = text(
        train=file,
        validation=file,
        test=file,
        tokenizer=tokenizer,
        text="q",
        second="a",
        length=7,
        inputs=kinds,
        calibration=1,
    )
    batch = splits.test.load(np.arange(1))
    assert list(batch.inputs) == list(kinds)
    assert batch.inputs["input_ids"].tolist() == [[CLS, A, CAT, SEP, RUNS, SEP, PAD]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0]]
    assert splits.classes == ("9", "10"), "numbers in their order"


def test_both_sentences_of_a_pair_stay_together(tmp_path, tokenizer):
    rows = [["a cat", "a dog", str(score)] for score in np.arange(20) / 4]
    splits = sentence_pairs(train=table(tmp_path / "p.csv", rows), tokenizer=tokenizer, length=5, calibration=4)
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test, splits.calibration)]
    assert sizes == [32, 4, 4, 4]
    for part in (splits.train, splits.validation, splits.test, splits.calibration):
        batch = part.load(np.arange(len(part)))
        assert (batch.targets[0::2] == batch.targets[1::2]).all()
        assert batch.inputs["input_ids"][0::2, 2].tolist() == [CAT] * (len(part) // 2)
        assert batch.inputs["input_ids"][1::2, 2].tolist() == [DOG] * (len(part) // 2)
        assert (batch.targets[:, 1] == batch.targets[:, 0] / 4).all(), "the score of its own pair"


def test_a_tag_is_at_the_first_token_of_its_word(tmp_path, tokenizer):
    (tmp_path / "t.conll").write_text("cats\tB-pet\nruns\tO\n\na O\ndogs B-pet\ncat I-pet\n")
    file = tmp_path / "t.conll"
    splits = conll(train=file, validation=file, test=file, tokenizer=tokenizer, length=5, calibration=1)
    batch = splits.test.load(np.arange(2))
    assert splits.classes == ("O", "B-pet", "I-pet")
    assert batch.inputs["input_ids"].tolist() == [[CLS, CAT, S, RUNS, SEP], [CLS, A, DOG, S, SEP]]
    assert batch.targets.tolist() == [[-1, 1, -1, 0, -1], [-1, 0, 1, -1, -1]], "the third word of the second is cut off"


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ("a,b\n", {}, "no column 'text'; its first line has a, b; or give numbers"),
        ("text,label\nx,y\nz\n", {}, "1 rows have less than 2 fields, the first is row 3"),
        ("x,y\n", {"text": 0, "label": 7}, "no column 7; the first row has 2 fields, numbers from 0"),
        ("", {}, "no column 'text'"),
        ("text,label\n", {}, "has no rows"),
        ("caf\xe9,label\n", {}, "not UTF-8 (byte 3); save it as UTF-8"),
        ("text,label\nx,y\n", {"inputs": ["ids"]}, "inputs are of input_ids, attention_mask, token_type_ids; given: ids"),
        ("text,label\nx,y\n", {"length": 1}, "length"),
        ("text,label\nx,y\n", {"length": 3}, "length = 3 has no room for words beside 3 marks"),
        ('text,label\na,"1\nb,2\nc,3\n', {}, "not a table (unexpected end of data)"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(content, options, told, tmp_path, tokenizer):
    (tmp_path / "t.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as error:
        text(train=tmp_path / "t.csv", tokenizer=tokenizer, **options)
    assert told in str(error.value)


def test_other_files_for_a_tokenizer_are_told(tmp_path):
    file = table(tmp_path / "t.csv", [["text", "label"], ["x", "y"]])
    with pytest.raises(UserError, match=r"no tokenizer.json there"):
        text(train=file, tokenizer=tmp_path / "none")
    with pytest.raises(UserError, match="not a tokenizer"):
        text(train=file, tokenizer=file)


def test_letters_that_others_take_for_line_ends_are_letters(tmp_path, tokenizer):
    (tmp_path / "t.csv").write_text("text,label\na\x85cat,1\ncat\u2028,2\n", newline="")
    found = text(train=tmp_path / "t.csv", validation=tmp_path / "t.csv", test=tmp_path / "t.csv", tokenizer=tokenizer)
    assert len(found.test) == 2 and found.classes == ("1", "2")


@pytest.mark.parametrize("value", ["null", "NaN", '{"x": 1}', '"\\ud800"', "true"])
def test_what_is_no_text_of_a_line_is_told(value, tmp_path, tokenizer):
    (tmp_path / "t.jsonl").write_text(f'{{"text": "a", "label": 1}}\n{{"text": "cat", "label": {value}}}\n')
    with pytest.raises(UserError, match="line 2: label is neither a text that UTF-8 has letters for nor a number"):
        text(train=tmp_path / "t.jsonl", tokenizer=tokenizer)


def test_classes_that_look_like_numbers_are_names(tmp_path, tokenizer):
    file = table(tmp_path / "t.csv", [["text", "label"], ["a", "\u00b2"], ["a", "9" * 30], ["a", "10"], ["a", "9"]])
    assert text(train=file, validation=file, test=file, tokenizer=tokenizer).classes == ("9", "10", "9" * 30, "\u00b2")
