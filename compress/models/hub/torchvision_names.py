"""``torchvision:NAME``: the weights that torchvision lists for its models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.models.checkpoint import WeightsSpec
from compress.models.factory import library, unknown_model
from compress.models.foreign import read_checkpoint
from compress.models.hub.address import fetch_published
from compress.models.hub.fetch import Say
from compress.models.hub.records import Found, ModelFacts, Pin
from compress.models.hub.timm_names import INTERPOLATIONS, imagenet_labels, numbers
from profiles.errors import UserError, first_line, unknown

CLASSES = "num_classes"


def find(name: str, arguments: Mapping[str, Any], revision: str, held: Pin | None, say: Say) -> Found:
    """Find the weights of a model of torchvision, and fetch them; ``revision`` is their name, such as IMAGENET1K_V2.

    Raises:
        UserError: there is no such model or weights, or they cannot be had.
    """
    models = library("torchvision.models")
    model = f"torchvision:{name}"
    known = models.list_models()
    if name not in known:
        raise UserError(unknown_model("torchvision", name, known))
    listed = models.get_model_weights(name)
    if not len(listed):
        raise UserError(f"{model}: torchvision has no weights for it; train it, or give weights")
    entry = revision or (held.revision if held is not None else "") or listed.DEFAULT.name
    if entry not in listed.__members__:
        raise UserError(unknown("revision", entry, listed.__members__, model))
    weights = listed[entry]
    path, pin = fetch_published(weights.url, model, revision, held, say)
    return Found(
        pin=replace(pin, revision=entry),
        factory=model,
        arguments=arguments,
        weights=path,
        outputs=len(weights.meta.get("categories") or ()),
        facts=facts_of(weights),
        published={"weights": entry},
    )


def published(found: Found, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Load the weights by torchvision's own builder, into a model of their own number of classes; return its state dict."""
    models = library("torchvision.models")
    assert found.weights is not None
    name = found.factory.partition(":")[2]
    weights = models.get_model_weights(name)[found.published["weights"]]
    own = {key: value for key, value in arguments.items() if key != CLASSES}
    with _answering(found.weights):
        try:
            module = models.get_model(name, weights=weights, progress=False, **own)
        except UserError:
            raise
        except Exception as error:  # whatever is wrong inside, no user reads its traceback
            words = first_line(error, 300)
            raise UserError(f"{found.pin.model}: torchvision does not load the weights ({words}); given: {own}") from error
    return dict(module.state_dict())


@contextmanager
def _answering(file: Path) -> Iterator[None]:
    """Let torchvision's builders read ``file`` where they would download: pinned bytes, and of a pickle tensors alone."""
    api: Any = library("torchvision.models._api")
    original = api.load_state_dict_from_url
    api.load_state_dict_from_url = lambda *_, **__: read_checkpoint(WeightsSpec(file=str(file))).state
    try:
        yield
    finally:
        api.load_state_dict_from_url = original


def facts_of(weights: Any) -> ModelFacts:
    """Read what an entry of torchvision says of its input and outputs."""
    transforms = weights.transforms()
    sides, short = (getattr(transforms, each, None) or [0] for each in ("crop_size", "resize_size"))
    interpolation = str(getattr(getattr(transforms, "interpolation", ""), "value", ""))
    names = tuple(str(each) for each in weights.meta.get("categories") or ())
    listed = imagenet_labels() if len(names) == 1000 else ()
    labels = tuple((name, *listed[place]) for place, name in enumerate(names)) if listed else tuple((n,) for n in names)
    side = int(sides[0])
    return ModelFacts(
        size=(side, side) if side else None,
        short_side=int(short[0]) if side and short[0] else None,
        crop="centre" if side else "",
        interpolation=interpolation if interpolation in INTERPOLATIONS else "",
        mean=numbers(getattr(transforms, "mean", None)),
        deviation=numbers(getattr(transforms, "std", None)),
        labels=labels,
    )
