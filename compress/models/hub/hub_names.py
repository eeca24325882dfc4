"""``hf:OWNER/NAME``: a repository of the hub, of timm's or of transformers' kind; code that lies in one is never run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from compress.models.checkpoint import WeightsSpec
from compress.models.factory import HEADS, library, transformers_head
from compress.models.foreign import read_checkpoint
from compress.models.hub import fetch, timm_names
from compress.models.hub.fetch import Repository, Say, open_repository
from compress.models.hub.records import Found, ModelFacts, Pin
from compress.models.hub.timm_names import numbers
from profiles.errors import UserError, first_line

CLASSES = "num_labels"
CONFIG, PROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer.json"
MOST_CONFIG_BYTES = 16 * 2**20
MOST_CLASSES = 10**7
MOST_RATE = 2**20
"""Samples a second, or pixels of a side."""
LEAST_SHARE = 0.01
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
LEFT_OUT = ("architectures", "id2label", "label2id", "transformers_version", "_name_or_path", "torch_dtype", "dtype")
"""Keys of a configuration that do not decide the model's structure."""


def find(name: str, arguments: Mapping[str, Any], revision: str, held: Pin | None, say: Say) -> Found:
    """Find a model and its weights in a repository of the hub, and fetch them.

    Raises:
        UserError: there is no such repository, it holds no model that is read here, or it cannot be had.
    """
    model = f"hf:{name}"
    wanted = (CONFIG, *timm_names.FILES, PROCESSOR, TOKENIZER)
    repository = open_repository(model, name, revision, held, wanted, say)
    config = _json(repository, repository.first_of((CONFIG,), "configuration of a model"))
    if "architecture" in config:
        return timm_names.find_in(repository, config, arguments, revision)
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise UserError(
            f"{model}: its {CONFIG} is neither timm's (architecture) nor transformers' (model_type); give a module"
        )
    if "auto_map" in config:
        raise UserError(
            f"{model}: it needs code of the repository, which is never run here; give your own module and weights"
        )
    files = [file for file in repository.files if file.endswith(".index.json")]
    if files and not any(file in repository.files for file in fetch.WEIGHTS):
        raise UserError(f"{model}: its weights are in several files ({files[0]}), which are not read here; save them in one")
    head = _head(model, config, has_words=TOKENIZER in repository.files)
    processor = _json(repository, PROCESSOR) if PROCESSOR in repository.files else {}
    about: dict[str, Any] = {}
    if TOKENIZER in repository.files:
        repository.fetch(TOKENIZER)
        about["tokenizer"] = {"source": name, "revision": repository.commit, "file": TOKENIZER}
    path = repository.fetch(repository.first_of(fetch.WEIGHTS, "weights that are read here"))
    labels = _labels(config)
    settings = {key: value for key, value in config.items() if key not in (*LEFT_OUT, "model_type", CLASSES)}
    stated = config.get(CLASSES, 2)
    if type(stated) is not int or not 0 <= stated < MOST_CLASSES:
        raise UserError(f"{model}: its {CONFIG} says {CLASSES} = {str(stated)[:40]!r}; it is a whole number")
    outputs = len(labels) or stated
    return Found(
        pin=repository.pin(model, revision),
        factory=f"transformers:{kind}",
        arguments={**settings, "head": head, CLASSES: outputs, **arguments},
        weights=path,
        outputs=outputs,
        facts=facts_of(processor, labels, about),
    )


def published(found: Found, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Load the weights by transformers' own loader, into a model of their own number of classes; return its state dict."""
    assert found.weights is not None
    if found.factory.startswith("timm:"):
        return timm_names.published(found, arguments)
    kind = found.factory.partition(":")[2]
    own = {**arguments, CLASSES: found.outputs}
    state = read_checkpoint(WeightsSpec(file=str(found.weights))).state
    transformers = library("transformers")
    transformers.utils.logging.disable_progress_bar()
    try:
        auto, settings = transformers_head(own)
        config = transformers.AutoConfig.for_model(kind, **settings)
        with torch.device("meta"):
            maker = type(auto.from_config(config))
        module, told = maker.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except UserError:
        raise
    except Exception as error:  # whatever is wrong inside, no user reads its traceback
        words = first_line(error, 300)
        raise UserError(f"{found.pin.model}: transformers does not load the weights: {words}") from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise UserError(f"{found.pin.model}: the weights lack {missing[0]} and {len(missing) - 1} more that the model has")
    return {f"model.{name}": tensor.float() for name, tensor in module.state_dict().items()}


def facts_of(processor: Mapping[str, Any], labels: tuple[tuple[str, ...], ...], about: dict[str, Any]) -> ModelFacts:
    """Read what a ``preprocessor_config.json`` says; what is not of its kind is passed over."""
    rate = processor.get("sampling_rate")
    if _is_side(rate):
        about["sample_rate_hz"] = rate
    resized, cut = _sides(processor.get("size")), _sides(processor.get("crop_size"))
    crops = processor.get("do_center_crop") is True and cut is not None
    edge = processor.get("size", {}).get("shortest_edge") if isinstance(processor.get("size"), Mapping) else None
    edge = edge if _is_side(edge) else None
    size = cut if crops else resized or ((edge, edge) if edge else None)
    short = edge if edge else min(resized) if resized else None
    share = processor.get("crop_pct")  # of ConvNeXt's processors: the picture is enlarged by it, and cut
    if edge and isinstance(share, float) and LEAST_SHARE < share <= 1 and not crops:
        short, crops = int(edge / share), True
    return ModelFacts(
        size=size,
        short_side=short if crops and size else None,
        crop="" if size is None else "centre" if crops or edge else "none",
        interpolation=RESAMPLING.get(resample, "") if type(resample := processor.get("resample")) is int else "",
        mean=numbers(processor.get("image_mean")),
        deviation=numbers(processor.get("image_std")),
        labels=labels,
        about=about,
    )


def _sides(given: Any) -> tuple[int, int] | None:
    """Return height and width of a size as processors write it: a number, or a table of height and width."""
    if _is_side(given):
        return given, given
    if not isinstance(given, Mapping):
        return None
    height, width = given.get("height"), given.get("width")
    return (height, width) if _is_side(height) and _is_side(width) else None


def _is_side(value: Any) -> TypeGuard[int]:
    """Return whether a value is a number of pixels, or of samples a second."""
    return type(value) is int and 0 < value <= MOST_RATE


def _head(model: str, config: Mapping[str, Any], *, has_words: bool) -> str:
    """Return what the model answers, a name of ``HEADS``; an encoder of texts without a head gives embeddings."""
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    endings = {head: ending for head, auto in HEADS.items() if (ending := auto.removeprefix("AutoModel"))}
    found = next((head for head, ending in endings.items() if name.endswith(ending)), None)
    if found is None and has_words and name.endswith("Model"):
        return "embedding"
    if found is None:
        read = ", ".join(f"...{ending}" for ending in endings.values())
        raise UserError(
            f"{model}: it is a {name or 'model without a head'}; read here are {read}; give a module of your own"
        )
    return found


def _labels(config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    named = config.get("id2label")
    if not isinstance(named, Mapping) or not all(str(number) in named for number in range(len(named))):
        return ()
    return tuple((str(named[str(number)]),) for number in range(len(named)))


def _json(repository: Repository, name: str) -> dict[str, Any]:
    path = Path(repository.fetch(name))
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            raise ValueError(f"longer than {MOST_CONFIG_BYTES:,} bytes")
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no table")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{repository.model}: {name} of {repository.name} is damaged ({str(error)[:120]})") from None
    return content
