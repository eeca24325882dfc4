"""Published weights by the libraries' own loaders, against a hub on loopback; each skips where its library is missing."""

import hashlib
import io
import json

import pytest
import torch
from safetensors.torch import save

from compress.models.factory import factory
from compress.models.hub.fill import fill, matching_rows
from compress.models.hub.resolve import Resolver
from compress.models.plan import Plan
from profiles.errors import UserError
from tests.conftest import randomise_batch_norms


def find(reference, arguments=None, revision="", recipe=None):
    return Resolver(recipe=recipe, say=lambda _: None).model(reference, arguments or {}, revision)


def built(found):
    torch.manual_seed(3)
    return Plan(factory=found.factory, arguments=found.arguments).build()


def pickled(state):
    held = io.BytesIO()
    torch.save(state, held)
    return held.getvalue()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_rows_are_found_by_any_name_and_only_where_each_is_one():
    labels = (("n01", "tench, Tinca tinca"), ("n02", "great white shark, white shark"), ("crane",), ("crane",))
    assert matching_rows(("n02", "n01"), labels) == (1, 0)
    assert matching_rows(("Great_White_Shark", "tinca tinca"), labels) == (1, 0)
    assert matching_rows(("tench", "n01"), labels) is None, "one label for two classes"
    assert matching_rows(("crane", "n01"), labels) is None, "two labels for one class"
    assert matching_rows(("tench", "dog"), labels) is None
    assert matching_rows((), labels) is None and matching_rows(("a",), ()) is None


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


def small(timm, **arguments):
    torch.manual_seed(1)
    module = timm.create_model("test_resnet", **arguments)
    randomise_batch_norms(module)
    return module.eval()


def test_timms_weights_are_the_published_ones_and_bring_their_facts(hub, timm):
    module = small(timm)
    hub.commit("timm/test_resnet.r160_in1k", {"config.json": b"{}", "model.safetensors": save(module.state_dict())})
    found = find("timm:test_resnet.r160_in1k")
    made = built(found)
    assert not same(made, module), "random before"
    assert fill(made, found, ()).fresh == () and same(made, module)
    settings = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert found.facts.size == settings.input_size[1:] == (160, 160)
    assert found.facts.mean == settings.mean and found.facts.interpolation == settings.interpolation
    assert found.facts.short_side == int(160 / settings.crop_pct) and len(found.facts.labels) == 1000


@pytest.mark.parametrize("arguments", [{"num_classes": 2}, {"num_classes": 2, "in_chans": 1}])
def test_a_head_by_the_names_of_the_datas_classes(hub, timm, arguments):
    module = small(timm)
    hub.commit("timm/test_resnet.r160_in1k", {"model.safetensors": save(module.state_dict())})
    found = find("timm:test_resnet", arguments)
    made = built(found)
    filled = fill(made, found, ("n01443537", "n01440764"))
    assert filled.fresh == () and "taken by name" in filled.notes[0]
    assert torch.equal(made.fc.weight, module.fc.weight[[1, 0]]) and torch.equal(made.fc.bias, module.fc.bias[[1, 0]])
    others = built(found)
    filled = fill(others, found, ("flange", "rivet"))
    assert filled.fresh == ("fc.weight", "fc.bias") and "random weights in fc.weight, fc.bias" in filled.notes[0]
    assert torch.equal(others.layer1[0].conv2.weight, module.layer1[0].conv2.weight)


def test_names_of_timm_that_are_none_and_weights_that_are_none(hub, timm):
    with pytest.raises(UserError, match=r"no model 'resnet51'; the nearest are .*resnet50"):
        find("timm:resnet51")
    with pytest.raises(UserError, match=r"no model 'resnet18.b1_in1k'; the nearest are .*resnet18.a1_in1k"):
        find("timm:resnet18.b1_in1k")
    with pytest.raises(UserError, match="the nearest are .*resnet50"):
        factory("timm:resnet51")
    with pytest.raises(UserError, match=r"pretrained would read or fetch .* write pretrained = true beside model"):
        factory("timm:test_resnet")(pretrained=True)


def test_weights_of_another_structure_are_told(hub, timm):
    hub.commit("timm/test_resnet.r160_in1k", {"model.safetensors": save({"conv1.weight": torch.zeros(3, 3)})})
    found = find("timm:test_resnet")
    with pytest.raises(UserError, match="timm does not load the weights"):
        fill(built(found), found, ())


def test_a_repository_that_timm_wrote(hub, timm):
    module = small(timm, num_classes=3)
    settings = {"input_size": [3, 96, 96], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "crop_pct": 1.0}
    settings |= {"interpolation": "bilinear", "first_conv": "conv1", "classifier": "fc", "file": "/etc/passwd"}
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": settings, "label_names": ["a", "b", "c"]}
    hub.commit("me/net", {"config.json": json.dumps(config).encode(), "pytorch_model.bin": pickled(module.state_dict())})
    found = find("hf:me/net")
    assert (found.factory, found.arguments) == ("timm:test_resnet", {"num_classes": 3})
    assert found.facts.labels == (("a",), ("b",), ("c",)) and found.facts.size == (96, 96) and found.facts.short_side == 96
    made = built(found)
    filled = fill(made, found, ("c", "a", "b"))
    assert torch.equal(made.fc.weight, module.fc.weight[[2, 0, 1]]), "the data's order, though it has as many classes"
    assert filled.fresh == () and same(made.layer1, module.layer1)
    hub.commit("me/evil", {"config.json": json.dumps({**config, "model_args": {"checkpoint_path": "/x"}}).encode()})
    hub.repositories["me/evil"][0]["files"]["model.safetensors"] = save(module.state_dict())
    with pytest.raises(UserError, match="checkpoint_path would read or fetch"):
        built(find("hf:me/evil"))


def test_torchvisions_weights_are_the_published_ones(hub, monkeypatch):
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(1)
    module = models.squeezenet1_1()
    content = pickled(module.state_dict())
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    name = f"squeezenet1_1-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    hub.plain[f"/models/{name}"] = content
    monkeypatch.setattr(weights.value, "url", f"{hub.url}/models/{name}")
    found = find("torchvision:squeezenet1_1")
    assert found.pin.revision == "IMAGENET1K_V1" and found.facts.size == (224, 224) and found.facts.short_side == 256
    made = built(found)
    assert fill(made, found, ()).fresh == () and same(made, module)
    narrow = find("torchvision:squeezenet1_1", {"num_classes": 2})
    made = built(narrow)
    assert fill(made, narrow, ("goldfish", "tench")).fresh == ()
    assert torch.equal(made.classifier[1].weight, module.classifier[1].weight[[1, 0]])
    with pytest.raises(UserError, match="unknown revision 'IMAGENET1K_V9'"):
        find("torchvision:squeezenet1_1", {}, "IMAGENET1K_V9")
    with pytest.raises(UserError, match="nearest are .*squeezenet1_1"):
        find("torchvision:squeezenet1_2")
    hub.plain[f"/models/{name}"] = content + b"x"
    (found.weights).unlink()
    with pytest.raises(UserError, match="is wanted; it was changed"):
        find("torchvision:squeezenet1_1")


def test_transformers_weights_are_the_published_ones(hub):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**small, image_size=16, patch_size=8, id2label={0: "cat", 1: "dog", 2: "eel"})
    torch.manual_seed(1)
    module = transformers.ViTForImageClassification(config).eval()
    told = {**config.to_dict(), "architectures": ["ViTForImageClassification"]}
    hub.commit("me/vit", {"config.json": json.dumps(told).encode(), "model.safetensors": save(module.state_dict())})
    found = find("hf:me/vit")
    made = built(found)
    assert fill(made, found, ("cat", "dog", "eel")).notes == ()
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.allclose(made(pixels), module(pixels).logits, atol=1e-6)
    text = transformers.BertConfig(**small, vocab_size=50, id2label={0: "no", 1: "yes"})
    texts = transformers.BertForSequenceClassification(text).eval()
    told = {**text.to_dict(), "architectures": ["BertForSequenceClassification"]}
    files = {"config.json": json.dumps(told).encode(), "tokenizer.json": b"{}"}
    hub.commit("me/bert", {**files, "model.safetensors": save(texts.state_dict())})
    found = find("hf:me/bert")
    assert found.arguments["head"] == "text" and found.facts.about["tokenizer"]["source"] == "me/bert"
    reader = built(found)
    assert fill(reader, found, ("no", "yes")).fresh == ()
    ids, mask = torch.randint(0, 50, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    assert torch.allclose(reader(input_ids=ids, attention_mask=mask), texts(ids, mask).logits, atol=1e-6)
    told = {**text.to_dict(), "architectures": ["BertModel"]}
    state = {name.removeprefix("bert."): tensor for name, tensor in texts.state_dict().items() if name.startswith("bert.")}
    hub.commit("me/encoder", {**files, "config.json": json.dumps(told).encode(), "model.safetensors": save(state)})
    found = find("hf:me/encoder")
    assert found.arguments["head"] == "embedding"
    encoder = built(found)
    assert fill(encoder, found, ()).fresh == ()
    words = texts.bert(ids, mask).last_hidden_state
    mean = (words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    made = encoder(input_ids=ids, attention_mask=mask)
    assert torch.allclose(made, torch.nn.functional.normalize(mean, dim=-1), atol=1e-6)
    narrow = find("hf:me/vit", {"num_labels": 2})
    made = built(narrow)
    assert fill(made, narrow, ("eel", "cat")).fresh == ()
    assert torch.allclose(made(pixels), module(pixels).logits[:, [2, 0]], atol=1e-6)
