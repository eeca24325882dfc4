import pytest

from profiles import device
from profiles.errors import UserError
from profiles.figures import Figure, evaluate_formula

A = {"sms": Figure(value=8.0, kind="published", source="x"), "clock_ghz": Figure(value=1.02, kind="published", source="x")}


def test_a_formula_by_hand():
    assert evaluate_formula("sms * 4096 * clock_ghz / 1000", A) == pytest.approx(33.42, abs=0.01)
    assert evaluate_formula("(sms - 2) / 3 + 1", A) == 3.0


@pytest.mark.parametrize("formula", ["__import__('os')", "sms ** 2", "cores * 2", "sms.value", "'a' * 3"])
def test_a_formula_is_arithmetic_and_nothing_else(formula):
    with pytest.raises(ValueError, match="neither a number nor one of sms, clock_ghz"):
        evaluate_formula(formula, A)


def test_all_faults_of_figures_and_modes_at_once():
    table = {
        "runtime": [{"engine": "onnxruntime", "precisions": ["fp32"], "recipe": "x"}],
        "unit": {
            "gpu": {
                "sm": {"value": 8, "kind": "published", "source": "x"},
                "sms": {"value": 8, "kind": "guessed", "source": "x"},
                "clock_ghz": {"value": "1.0", "kind": "published", "source": "x", "note": 1},
                "int8_tops": 33,
                "fp16_tflops": {"value": 1, "kind": "derived"},
            }
        },
        "power_mode": [{"name": "15W", "watts": 15, "kind": "published", "source": "x"}],
    }
    with pytest.raises(UserError) as caught:
        device.resolve("new", table, device.facts())
    told = "\n".join(caught.value.faults)
    for words in (
        "unknown key 'recipe'",
        "unknown figure 'sm' (did you mean 'sms'?)",
        "unknown kind 'guessed'",
        "unknown key 'note'",
        "clock_ghz value is a number from 0 on; given: '1.0'",
        "int8_tops = 33: write { value = ...",
        "fp16_tflops has no source",
        "power mode '15W': unknown key 'watts'",
    ):
        assert words in told


def test_a_board_without_its_architecture_is_told(tmp_path):
    (tmp_path / "b.toml").write_text('[board]\ncore = 4\n[[runtime]]\nengine = "onnxruntime"\nprecisions = ["fp32"]\n')
    with pytest.raises(UserError) as caught:
        device.load(str(tmp_path / "b.toml"))
    assert "unknown key 'core' (did you mean 'cores'?)" in caught.value.faults[0]
    assert 'needs arch = ["aarch64"]' in caught.value.faults[1]
