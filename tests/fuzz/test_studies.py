"""A study that others write to, mutated: what is read of it is a record, or is left out and told in one line."""

import json
import types

import pytest

from compress.pipeline.search import records
from compress.pipeline.search.study import find_study, open_study
from compress.recipe.search import Dimension, SearchSpec
from tests.fuzz.mutations import WRONG, check, generator, inputs, mutated_bytes, mutated_table

optuna = pytest.importorskip("optuna")

SPACE = (Dimension(key="student.width", choices=(0.5, 1.0)), Dimension(key="prune.ratio", low=0.1, high=0.5))
POINT = {
    "form": "int8",
    "accuracy": 90.0,
    "latency_ms": 1.0,
    "low_ms": 0.9,
    "high_ms": 1.1,
    "stored_bytes": 5,
    "size_bytes": 6,
}
ATTRS = {
    "point": POINT,
    "stages": ["distill"],
    "share": 1.0,
    "reason": "",
    "asked": 3,
    "made": 1,
    "seconds": 2.0,
    "recipe": "a\nb = 1",
}


def front(study):
    limits = types.SimpleNamespace(faults=lambda point: (), accuracy=80.0, latency_ms=None)
    runner = types.SimpleNamespace(limits=limits, task=types.SimpleNamespace(metric="top1", unit="%"), free=())
    return records.device_front(study, "cpu", runner, SearchSpec())


def told(study, attrs, params):
    kinds = {
        key: optuna.distributions.CategoricalDistribution([value])
        if isinstance(value, str)
        else optuna.distributions.FloatDistribution(value, value)
        for key, value in params.items()
    }
    study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, values=[1.0, 1.0], user_attrs=attrs))


def test_what_trials_say_of_themselves():
    rnd = generator("study attributes")
    for number in range(inputs(60)):
        study = optuna.create_study(directions=["maximize", "minimize"])
        told(study, ATTRS, {"student.width": "0.5"})
        attrs = mutated_table(ATTRS, rnd)
        if number % 4 == 0:
            attrs = {**ATTRS, rnd.choice([*ATTRS]): rnd.choice(WRONG)}
        told(study, attrs, {"student.width": "0.5"})

        def read(study=study):
            found = front(study)
            assert found.trials[0].point is not None
            json.dumps(found, default=vars)
            assert isinstance(found.front, tuple)

        check(read)


def test_files_of_studies(tmp_path):
    url, rnd = f"sqlite:///{tmp_path}/study.db", generator("study file")
    study = open_study(url, "digits on cpu", SearchSpec(), 0, "a")
    told(study, ATTRS, {"student.width": "0.5", "prune.ratio": 0.2})
    del study
    whole = (tmp_path / "study.db").read_bytes()

    def read(content):
        (tmp_path / "study.db").write_bytes(content)
        table = {"student": {}, "stage": [{"use": "prune"}]}
        records.trial_table(url, "digits", "cpu", 0, table, SPACE)
        front(find_study(url, "digits on cpu"))

    assert check(read, whole) == ()
    for number in range(inputs(25)):
        content = bytearray(whole)
        if number % 2:
            for _ in range(rnd.randint(1, 40)):
                content[rnd.randrange(len(content))] = rnd.randrange(256)
        check(read, bytes(content) if number % 2 else mutated_bytes(whole, rnd))


def test_journals(tmp_path):
    file, rnd = tmp_path / "study.log", generator("journal")
    url = f"journal://{file}"
    study = open_study(url, "digits on cpu", SearchSpec(), 0, "a")
    told(study, ATTRS, {"student.width": "0.5"})
    whole = file.read_bytes()

    def read(content):
        file.write_bytes(content)
        front(find_study(url, "digits on cpu"))

    assert check(read, whole) == ()
    for _ in range(inputs(40)):
        check(read, mutated_bytes(whole, rnd))
