"""``timm:NAME``, and repositories of the hub that timm has written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.models.checkpoint import WeightsSpec
from compress.models.factory import NEAREST, library, unknown_model
from compress.models.foreign import read_checkpoint
from compress.models.hub import fetch
from compress.models.hub.address import fetch_published
from compress.models.hub.fetch import Repository, Say, open_repository
from compress.models.hub.records import Found, ModelFacts, Pin
from profiles.errors import UserError, first_line

CLASSES = "num_classes"
MOST_SIDE = 2**16
MOST_NUMBER = 1e30
LEAST_SHARE = 0.01
CROPS = {"center": "centre", "border": "centre", "squash": "none"}
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
FILES = (*fetch.WEIGHTS, "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def find(name: str, arguments: Mapping[str, Any], revision: str, held: Pin | None, say: Say) -> Found:
    """Find the published weights of a model of timm, and fetch them.

    Raises:
        UserError: there is no such model, none are published for it, or they cannot be had.
    """
    timm = library("timm")
    model = f"timm:{name}"
    if not timm.is_model(name):
        raise UserError(unknown_model("timm", name, timm.list_models() + timm.list_pretrained()))
    try:
        settings = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise UserError(unknown_model("timm", name, tags)) from None
    if settings is None or not settings.has_weights:
        published = timm.list_pretrained(f"{name.partition('.')[0]}*")
        near = f"published are {', '.join(published[:NEAREST])}" if published else "train it, or give weights"
        raise UserError(f"{model}: timm has no weights for it; {near}")
    if settings.custom_load:
        fact = f"{model}: its weights are no state dict (timm converts them itself)"
        raise UserError(f"{fact}; choose another name, or give weights")
    told = settings.to_dict()
    if settings.hf_hub_id:
        wanted = (settings.hf_hub_filename,) if settings.hf_hub_filename else FILES
        repository = open_repository(model, settings.hf_hub_id, revision, held, wanted, say)
        path = repository.fetch(repository.first_of(wanted, "weights that are read here"))
        pin = repository.pin(model, revision)
    else:
        path, pin = fetch_published(str(settings.url), model, revision, held, say)
    return Found(
        pin=pin,
        factory=f"timm:{name}",
        arguments=arguments,
        weights=path,
        outputs=int(settings.num_classes),
        facts=facts_of(told),
        published={"pretrained_cfg": told},
    )


def find_in(repository: Repository, config: Mapping[str, Any], arguments: Mapping[str, Any], asked: str) -> Found:
    """Find a model that timm has written to the hub, by its ``config.json``.

    Raises:
        UserError: its architecture is none of timm's, or it has no weights that are read here.
    """
    timm = library("timm")
    model, name = repository.model, str(config["architecture"])
    if not timm.is_model(name):
        raise UserError(f"{model}: its {unknown_model('timm', name, timm.list_models())}")
    told, given = config.get("pretrained_cfg") or config, config.get("model_args") or {}
    outputs = config.get(CLASSES, told.get(CLASSES, 1000) if isinstance(told, Mapping) else 1000)
    if type(outputs) is not int or outputs < 0 or not isinstance(given, Mapping) or not isinstance(told, Mapping):
        words = f"{CLASSES} is a number, model_args and pretrained_cfg are tables"
        raise UserError(f"{model}: config.json is not one of timm's: {words}")
    settings = dict(told)
    checked = {key: value for key, value in given.items() if key not in (CLASSES, "num_features")}
    settings |= {key: config[key] for key in ("label_names", "label_descriptions", CLASSES) if key in config}
    path = repository.fetch(repository.first_of(FILES, "weights that are read here"))
    return Found(
        pin=repository.pin(model, asked),
        factory=f"timm:{name}",
        arguments={CLASSES: outputs, **checked, **arguments},
        weights=path,
        outputs=outputs,
        facts=facts_of(settings),
        published={"pretrained_cfg": {**_plain_settings(settings), "architecture": name}},
    )


def published(found: Found, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Load the weights by timm's own loader, into a model of their own number of classes; return its state dict."""
    assert found.weights is not None
    own = {key: value for key, value in arguments.items() if key != CLASSES}
    state = read_checkpoint(WeightsSpec(file=str(found.weights))).state
    timm = library("timm")
    settings = {**found.published["pretrained_cfg"], "state_dict": state}
    for source in ("url", "file", "hf_hub_id", "hf_hub_filename", "source"):
        settings.pop(source, None)
    name = found.factory.partition(":")[2].partition(".")[0]
    try:
        module = timm.create_model(name, pretrained=True, pretrained_cfg=settings, num_classes=found.outputs, **own)
    except Exception as error:  # whatever is wrong inside, no user reads its traceback
        words = first_line(error, 300)
        raise UserError(f"{found.pin.model}: timm does not load the weights ({words}); given: {own}") from error
    return dict(module.state_dict())


def facts_of(settings: Mapping[str, Any]) -> ModelFacts:
    """Read what timm says of a model's input and outputs; what is not of its kind is passed over."""
    size, crop = settings.get("input_size"), settings.get("crop_pct")
    sides = tuple(size[1:]) if isinstance(size, list | tuple) and len(size) == 3 else ()
    height, width = sides if all(type(s) is int and 0 < s <= MOST_SIDE for s in sides) and sides else (0, 0)
    mode = CROPS.get(str(settings.get("crop_mode", "center")), "centre")
    share = crop if isinstance(crop, int | float) and LEAST_SHARE < crop <= 1 else 0.875
    interpolation = str(settings.get("interpolation", ""))
    return ModelFacts(
        size=(height, width) if height else None,
        short_side=int(min(height, width) / share) if height and mode == "centre" else None,
        crop=mode if height else "",
        interpolation=interpolation if interpolation in INTERPOLATIONS else "",
        mean=numbers(settings.get("mean")),
        deviation=numbers(settings.get("std")),
        labels=_labels(settings),
    )


def numbers(values: Any) -> tuple[float, ...]:
    """Return a list of numbers as floats; nothing of anything else."""
    listed = values if isinstance(values, list | tuple) else ()
    are_numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < MOST_NUMBER for v in listed)
    return tuple(float(v) for v in listed) if are_numbers else ()


def imagenet_labels() -> tuple[tuple[str, ...], ...]:
    """List the names of ImageNet's 1000 classes, synset and words; empty where timm is not installed."""
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return ()
    about = ImageNetInfo("imagenet-1k")
    return tuple(zip(about.label_names(), about.label_descriptions(), strict=True))


def _labels(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    names, words = settings.get("label_names"), settings.get("label_descriptions")
    if isinstance(names, list | tuple):
        described = words if isinstance(words, Mapping) else {}
        return tuple((name, str(described[name])) if name in described else (name,) for name in map(str, names))
    return imagenet_labels() if settings.get(CLASSES) == 1000 else ()


def _plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that say how weights are adapted; addresses and files that a repository names are not followed."""
    kept = ("input_size", "fixed_input_size", CLASSES, "label_offset", "first_conv", "classifier", "pool_size")
    return {key: settings[key] for key in kept if settings.get(key) is not None}
