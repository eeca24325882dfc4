"""What a check is shown as: exit codes, JUnit XML that a CI reads, Markdown."""

import xml.etree.ElementTree as ElementTree

import pytest

from compress.report.check_record import Check, Finding


def finding(question, answer, **more):
    return Finding(question=question, answer=answer, limit=3.0, unit="%", compared="1.000 -> 1.060 ms", **more)


def made(*answers):
    pairs = zip(("latency", "accuracy"), answers, strict=True)
    return Check(old="a.onnx", new="b|c.onnx", device="cpu", findings=tuple(finding(q, a) for q, a in pairs), seconds=2.0)


@pytest.mark.parametrize(
    ("answers", "answer", "code"),
    [
        (("fine", "fine"), "fine", 0),
        (("fine", "not compared"), "fine", 0),
        (("fine", "cannot tell"), "cannot tell", 3),
        (("worse", "cannot tell"), "worse", 1),
    ],
)
def test_the_worst_finding_decides(answers, answer, code):
    found = made(*answers)
    assert (found.answer, found.exit_code) == (answer, code)
    assert found.as_json()["exit_code"] == code


def test_junit_counts_what_is_worse_as_failed_and_what_cannot_be_told_as_skipped():
    suite = ElementTree.fromstring(made("worse", "cannot tell").junit())
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "1", "1")
    latency, accuracy = suite
    assert latency.find("failure").get("message") == "1.000 -> 1.060 ms"
    assert accuracy.find("skipped") is not None and latency.get("name") == "latency"


def test_markdown_has_a_row_a_question_and_no_broken_cell():
    found = Check(
        old="a",
        new="b|c",
        device="cpu",
        findings=(finding("latency", "worse", low=4.0, middle=6.0, high=8.0),),
        doubts=("hot",),
    )
    text = found.markdown()
    assert "| latency | worse | +6.00 % | +4.00 and +8.00 | 3 % |" in text and "b\\|c" in text and "hot" in text
    assert "6.00 % slower (between +4.00 and +8.00; allowed: 3)" in str(found)
