import numpy as np
import pytest
import torch

import compress
from compress.data.base import NamedSamples, Splits
from compress.tasks.entities import Entities, entities
from profiles.errors import UserError

TAGS = ("O", "B-place", "I-place", "B-person", "I-person")


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", set()),
        ("B-place I-place O", {("place", 0, 1)}),
        ("B-place B-place", {("place", 0, 0), ("place", 1, 1)}),
        ("B-place I-person I-person", {("place", 0, 0), ("person", 1, 2)}),
        ("I-place O I-place", {("place", 0, 0), ("place", 2, 2)}),
        ("", set()),
    ],
)
def test_entities_of_tags(tags, found):
    assert entities(tags.split()) == found


def samples(targets):
    targets = np.array(targets, np.int64)
    return NamedSamples({"input_ids": np.zeros(targets.shape, np.int64)}, targets, TAGS)


def test_only_whole_entities_count():
    """Three there, two found of which one is right: precision 1/2, recall 1/3, F1 0.4."""
    targets = [[1, 2, 0, -1], [3, -1, 4, 1]]
    guesses = [[1, 2, 0, 3], [3, 3, 0, 0]]  # what is found where nothing is to be tagged does not count
    logits = np.eye(5, dtype=np.float32)[np.array(guesses)]
    found = Entities().evaluate(lambda inputs: [logits], samples(targets))
    assert found.value == pytest.approx(40.0)
    assert found.others == {"precision": pytest.approx(50.0), "recall": pytest.approx(100 / 3)}
    # the first twice: both of its entities right, one each; the second twice: one found, two there, none right
    assert {round(value) for value in found.drawn} == {0, 40, 100}
    assert np.mean(np.array(found.drawn) > 99) == pytest.approx(0.25, abs=0.07)


def test_the_loss_is_the_mean_over_tagged_tokens():
    """Of two tagged tokens one is certain and right, the other even over two tags: log(2) / 2."""
    logits = torch.full((1, 3, 5), -1e9)
    logits[0, 0, 1] = 0.0
    logits[0, 1, :2] = 0.0
    logits[0, 2] = 0.0
    assert float(Entities().loss(logits, torch.tensor([[1, 0, -1]]))) == pytest.approx(np.log(2) / 2, abs=1e-6)


def test_words_of_unknown_tag_are_no_part_of_the_loss():
    logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]]])
    targets = torch.tensor([[0, -2, -1]])
    expected = torch.nn.functional.cross_entropy(logits[0, :1], targets[0, :1])
    torch.testing.assert_close(Entities().loss(logits, targets), expected)


def test_tags_that_are_none_are_told():
    whole = samples([[1, 0]])
    Entities().check(Splits(train=whole, calibration=whole, validation=whole, test=whole, classes=TAGS))
    with pytest.raises(UserError) as told:
        Entities().check(
            Splits(train=samples([[9, 0]]), calibration=whole, validation=samples([[-1, -1]]), test=whole, classes=TAGS)
        )
    assert str(told.value).splitlines() == [
        "data: the train split has tags outside 0 to 4; -1 stands for none, -2 for a word of unknown tag",
        "data: the validation split has no tag; models are judged on it",
    ]
    with pytest.raises(UserError, match=r"gives \(2, 5\) for two samples; 5 tags of 2 tokens are read from \(2, 2, 5\)"):
        Entities().check_outputs(
            torch.zeros(2, 5), Splits(train=whole, calibration=whole, validation=whole, test=whole, classes=TAGS)
        )


def test_names_given_with_arrays_reach_the_metric_and_the_key():
    """Of equal arrays the names of the tags decide what an entity is."""
    tags = np.tile([[0, 1, 2, 0]], (40, 1))
    made = [
        compress.split_arrays({"train": ({"ids": np.zeros((40, 4), np.int64)}, tags)}, classes=names, calibration=4)
        for names in (("O", "B-x", "I-x"), ("O", "B-x", "B-y"))
    ]
    found = [Entities().evaluate(lambda inputs: [np.eye(3)[tags[: len(inputs["ids"])]]], each.test) for each in made]
    assert [metric.value for metric in found] == [100.0, 100.0]
    assert made[0].test.fingerprint() != made[1].test.fingerprint()
    assert made[0].fingerprint() != made[1].fingerprint()
