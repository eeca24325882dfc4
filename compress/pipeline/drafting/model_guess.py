"""What a model is: how it is built for the data's classes, whether it works already, and from what that is known."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from compress.models.checkpoint import COUNTER, WeightsSpec, without_prefix
from compress.models.factory import factory, library
from compress.models.foreign import read_checkpoint
from compress.models.hub import hub_names, timm_names, torchvision_names
from compress.models.hub.fetch import Say
from compress.models.hub.fill import matching_rows
from compress.models.hub.records import ModelFacts
from compress.models.hub.resolve import Resolver
from compress.models.plan import make
from profiles.errors import UserError

COUNTS = ("num_classes", "classes", "n_classes", "nclasses", "num_labels", "class_count")
"""What factories call the number of classes."""
CHANNELS = ("in_channels", "in_chans", "channels", "num_channels")
OWN = {"detection": "compress.models:detector", "segmentation": "compress.models:unet"}
"""The product's own model for a task, where none is named."""
SUFFIXES = (".pth", ".pt", ".th", ".bin", ".ckpt", ".safetensors", ".tar")


@final
@dataclass(frozen=True, kw_only=True)
class ModelGuess:
    """A model, and how a recipe names it.

    Attributes:
        pretrained: whether its published weights are taken.
        learns: whether it is to be trained before it teaches.
        scaled: whether its factory makes it narrower by ``width``.
        factory, base: what a name is built by, and with which arguments beside; empty where ``model`` says it.
    """

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    pretrained: bool = False
    learns: bool = False
    scaled: bool = False
    factory: str = ""
    base: Mapping[str, Any] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_onnx(self) -> bool:
        """Whether it is a file without source code."""
        return self.model.endswith(".onnx")


@final
@dataclass(frozen=True, kw_only=True)
class Published:
    """Published weights of a name.

    Attributes:
        outputs: their number of classes; 0 where there are none.
        factory, arguments: what the model is built by.
        count: the argument for the number of classes.
    """

    facts: ModelFacts = field(default_factory=ModelFacts)
    outputs: int = 0
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    count: str = "num_classes"


def published(reference: str, say: Say) -> Published:
    """Return what is known of the published weights of a name; of the libraries' own without fetching any.

    Raises:
        UserError: there is no such model, with the nearest names; or the hub cannot be reached.
    """
    kind, _, name = reference.partition(":")
    if kind == "hf":
        found = Resolver(recipe=None, say=say).model(reference, {}, "")
        count = "num_classes" if found.factory.startswith("timm:") else hub_names.CLASSES
        return Published(
            facts=found.facts, outputs=found.outputs, factory=found.factory, arguments=found.arguments, count=count
        )
    factory(reference)
    if kind == "timm":
        settings = factory_settings(name)
        outputs = int(settings.get("num_classes", 0))
        return Published(facts=timm_names.facts_of(settings), outputs=outputs, factory=reference)
    listed = library("torchvision.models").get_model_weights(name)
    if not len(listed):
        return Published(factory=reference)
    entry = listed.DEFAULT
    outputs = len(entry.meta.get("categories") or ())
    return Published(facts=torchvision_names.facts_of(entry), outputs=outputs, factory=reference)


def factory_settings(name: str) -> dict[str, Any]:
    """Return timm's settings of published weights; empty where it has none."""
    try:
        found = library("timm").get_pretrained_cfg(name)
    except RuntimeError:
        raise UserError(f"timm:{name}: timm has no such weights of the model; give its name as timm lists it") from None
    return dict(found.to_dict()) if found is not None and found.has_weights else {}


def guess_model(
    given: str,
    weights: str,
    task: str,
    classes: Sequence[str],
    channels: int,
    named: Published | None = None,
    *,
    random: bool = False,
) -> ModelGuess:
    """Find out how a recipe names a model.

    Args:
        given: a name, a factory, a checkpoint or an ONNX file; empty for the product's own model of the task.
        weights: a checkpoint for it; empty for none.
        named: what is known of its published weights, where it is a name of them.
        random: whether published weights are left alone.

    Raises:
        UserError: it is none of these, or does not answer what the task reads.
    """
    given = given or OWN.get(task, "")
    if not given:
        raise UserError(
            "give a model: timm:NAME, torchvision:NAME, hf:OWNER/NAME, module:callable, a checkpoint or an .onnx file"
        )
    path = Path(given)
    if path.suffix in (*SUFFIXES, ".onnx") and ":" not in given and not path.is_file():
        raise UserError(f"{given}: no such file")
    if given.endswith(".onnx"):
        return ModelGuess(model=given)
    if path.is_file() and (path.suffix in SUFFIXES or ":" not in given):
        return identify(path, channels)
    if named is not None:
        return _named(given, named, weights, task, classes, channels, random=random)
    call = factory(given)
    arguments = _arguments(call, len(classes), channels)
    why = {"model": "trained here, on labels, as it has no weights"} if not weights else {}
    parameters = inspect.signature(call).parameters
    return ModelGuess(
        model=given, arguments=arguments, weights=weights, learns=not weights, scaled="width" in parameters, why=why
    )


def _named(
    given: str, named: Published, weights: str, task: str, classes: Sequence[str], channels: int, *, random: bool
) -> ModelGuess:
    if task != "classification":
        fact = f"{given}: of names, those of classifiers alone are guessed, and the data is for {task}"
        raise UserError(f"{fact}; leave the model out for {OWN.get(task, 'one of yours')}, or write the recipe by hand")
    planes = {} if channels == 3 or not named.factory.startswith("timm:") else {"in_chans": channels}
    built: dict[str, Any] = {"factory": named.factory, "base": named.arguments}
    if weights or random or not named.outputs:
        why = "random weights, as asked" if random else "" if weights else "random weights: none are published for it"
        arguments = {named.count: len(classes), **planes}
        told = {"model": f"{why}; trained here, on labels"} if why else {}
        return ModelGuess(model=given, arguments=arguments, weights=weights, learns=not weights, why=told, **built)
    outputs, labels = named.outputs, named.facts.labels
    fits = matching_rows(classes, labels) is not None or outputs == len(classes)
    why = f"the head's rows for the data's classes, by name, of the {outputs} that the weights have"
    if not fits:
        why = f"published weights of {outputs} classes, none of which the data's are by name: its head is trained here"
    arguments = {**({} if outputs == len(classes) else {named.count: len(classes)}), **planes}
    return ModelGuess(model=given, arguments=arguments, pretrained=True, learns=not fits, why={"model": why}, **built)


def _arguments(call: Any, classes: int, channels: int) -> dict[str, Any]:
    """Return the arguments by which a factory is told the number of classes and channels."""
    parameters = inspect.signature(call).parameters
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    count = next((name for name in COUNTS if name in parameters), "num_classes" if open_ended and not parameters else "")
    found = {count: classes} if count and classes else {}
    plane = next((name for name in CHANNELS if name in parameters), "")
    if plane and parameters[plane].default not in (channels, inspect.Parameter.empty):
        found[plane] = channels
    return found


def identify(path: Path, channels: int) -> ModelGuess:
    """Find the model of a checkpoint among the product's own, torchvision's and timm's, by names and shapes of its tensors.

    Raises:
        UserError: it is no checkpoint, or of a model that is none of them.
    """
    state = read_checkpoint(WeightsSpec(file=str(path))).state
    tried = 0
    for model, arguments, key in _candidates(path, channels):
        tried += 1
        try:
            counted = _counted(model, arguments, key, state)
        except Exception:  # a factory that does not take the arguments is no candidate
            continue
        if counted is not None:
            return ModelGuess(
                model=model,
                arguments=counted,
                weights=str(path),
                scaled=model.startswith("compress.models:"),
                why={"model": f"names and shapes of the checkpoint's {len(state)} tensors are those of {model}"},
            )
    some = ", ".join(list(state)[:3])
    fact = f"{path}: no model of {tried} that are known has its tensors ({some} ...)"
    raise UserError(f"{fact}; say which: compress init module:callable --weights {path}")


def _counted(model: str, arguments: Mapping[str, Any], key: str, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the arguments with which a model has the tensors of ``state``, the number of classes among them; else None."""
    own = model.startswith("compress.models:")  # small, and quicker made than the machinery of "meta" is imported
    with torch.device("cpu" if own else "meta"), torch.random.fork_rng(devices=[]):
        two = make(model, {**arguments, key: 2}).state_dict()
        plain = without_prefix(state, list(two))[0]
        if _names(two) != _names(plain):
            return None
        three = make(model, {**arguments, key: 3}).state_dict()
        head = next((name for name in two if two[name].shape[:1] != three[name].shape[:1]), None)
        if head is None:
            return None
        step = three[head].shape[0] - two[head].shape[0]
        classes = 2 + (plain[head].shape[0] - two[head].shape[0]) // step
        found = {**arguments, key: classes}
        return found if classes > 0 and _fits(make(model, found).state_dict(), plain) else None


def _names(state: Mapping[str, Tensor]) -> set[str]:
    return {name for name in state if not name.endswith(COUNTER)}


def _fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    return _names(own) == _names(state) and all(own[name].shape == state[name].shape for name in _names(own))


def _candidates(path: Path, channels: int) -> Iterator[tuple[str, dict[str, Any], str]]:
    """List models that a checkpoint may be of, with arguments, and that for the classes; its file's namesakes first."""
    for source in ("torchvision", "timm"):
        for name in _listed(source, path.stem.lower()):
            yield f"{source}:{name}", {}, "num_classes"
    plain = {"in_channels": channels}
    for shortcut in ("pad", "convolution"):
        for blocks in (3, 5, 7, 9):
            yield "compress.models:resnet", {**plain, "blocks": blocks, "shortcut": shortcut}, "classes"
    for name in ("vgg", "detector", "unet"):
        yield f"compress.models:{name}", plain, "classes"
    for name in _listed("torchvision", ""):
        yield f"torchvision:{name}", {}, "num_classes"


def _listed(source: str, stem: str) -> list[str]:
    """List a library's models that a file is named after, the longest first; all of torchvision's for no name."""
    try:
        names = library("timm" if source == "timm" else "torchvision.models").list_models()
    except UserError:  # it is not installed
        return []
    if not stem:
        return [name for name in names if not name.startswith("quantized")]
    plain = stem.replace("-", "_")
    return sorted((name for name in names if plain.startswith(name)), key=len, reverse=True)[:3]
