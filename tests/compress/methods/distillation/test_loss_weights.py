import pytest
import torch

from compress.models.checkpoint import load_into, save_tensors
from compress.models.foreign import load_foreign
from profiles.errors import UserError
from tests.conftest import small_model


def test_safetensors_and_torch_files_load(tmp_path):
    state = small_model().state_dict()
    save_tensors(tmp_path / "w.safetensors", state)
    torch.save(state, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        fresh = small_model(9)
        load_into(fresh, load_foreign(tmp_path / name), name)
        assert all(torch.equal(v, state[k]) for k, v in fresh.state_dict().items())


def wrapped(state):
    """As checkpoints come from the wild."""
    yield {"state_dict": state, "epoch": 3, "best_prec1": 93.4}
    yield {"model": state, "optimizer": {"state": {}, "param_groups": []}}
    yield {"model": {"state_dict": state}}
    yield {"ema": {f"module.{k}": v for k, v in state.items()}, "epoch": 1}
    yield {f"module.{k}": v for k, v in state.items()}
    yield {"state_dict": {f"model.{k}": v for k, v in state.items()}}
    yield {f"_orig_mod.{k}": v for k, v in state.items()}
    yield {f"_orig_mod.module.{k}": v for k, v in state.items()}


@pytest.mark.parametrize("number", range(8))
def test_wrappers_found_in_the_wild_are_taken_off(tmp_path, number):
    state = small_model().state_dict()
    torch.save(list(wrapped(state))[number], tmp_path / "w.pth")
    fresh = small_model(9)
    load_into(fresh, load_foreign(tmp_path / "w.pth"), "w.pth")
    assert all(torch.equal(v, state[k]) for k, v in fresh.state_dict().items())


def test_a_prefix_that_is_the_models_own_stays():
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Linear(2, 2)

    source, fresh = Wrapped(), Wrapped()
    load_into(fresh, source.state_dict(), "w.pth")
    assert torch.equal(fresh.model.weight, source.model.weight)


def test_weights_that_do_not_fit_are_told_whole():
    state = small_model(width=1.0).state_dict()
    del state["bn1.weight"]
    state["head.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        load_into(small_model(), state, "w.pth")
    faults = caught.value.faults
    assert "missing bn1.weight" in faults[0]
    assert "head.weight not in ResNet" in faults[1]
    assert "conv1.weight is (16, 1, 3, 3); ResNet takes (8, 1, 3, 3)" in "\n".join(faults)


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("this must not run",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="code in a checkpoint is never run"):
        load_foreign(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {}}])
def test_anything_but_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match="not a state dict"):
        load_foreign(tmp_path / "w.pt")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_foreign(tmp_path / "none.pth")
