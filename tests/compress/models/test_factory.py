import importlib.util

import pytest
import torch
from torch import nn

from compress.models.factory import factory, relative_to
from compress.models.plan import Plan
from profiles.errors import UserError


def test_a_file_of_the_users_own_and_what_it_imports(tmp_path):
    (tmp_path / "parts_of_mine.py").write_text("from torch import nn\ndef head():\n    return nn.Linear(2, 2)\n")
    (tmp_path / "nets.py").write_text("from parts_of_mine import head\ndef net(scale=1):\n    return head()\n")
    plan = Plan(factory=f"{tmp_path / 'nets.py'}:net", arguments={"scale": 2})
    assert isinstance(plan.build(), nn.Linear)
    assert Plan.from_json(plan.as_json()).build().weight.shape == (2, 2)


def test_a_missing_file_or_name_is_told(tmp_path):
    (tmp_path / "nets.py").write_text("")
    with pytest.raises(UserError, match=r"nets.py:nett.*has no 'nett'"):
        factory(f"{tmp_path / 'nets.py'}:nett")
    with pytest.raises(UserError, match="no such file"):
        factory(f"{tmp_path / 'none.py'}:net")


def test_an_error_in_the_users_file_keeps_its_traceback(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            factory(f"{tmp_path / 'bad.py'}:net")


def test_only_files_are_made_absolute(tmp_path):
    assert relative_to("a.b:c", tmp_path) == "a.b:c"
    assert relative_to("timm:resnet18", tmp_path) == "timm:resnet18"
    assert relative_to("x.py:c", tmp_path) == f"{tmp_path}/x.py:c"
    assert relative_to("/y/x.py:c", tmp_path) == "/y/x.py:c"


@pytest.mark.parametrize(
    ("library", "package"), [("timm", "timm"), ("torchvision", "torchvision"), ("transformers", "transformers")]
)
def test_a_library_that_is_missing_is_told_with_its_command(library, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(UserError, match=rf"pip install 'edge-compress\[{package}\]'"):
        factory(f"{library}:resnet18")


def test_a_transformers_classifier_gives_logits():
    pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    size = {"image_size": 16, "patch_size": 8, "num_labels": 5}
    module = factory("transformers:vit")(**small, **size)
    assert module.eval()(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    with pytest.raises(UserError, match="transformers:no_such_model"):
        factory("transformers:no_such_model")()
