"""Model factories by reference, and the plain ones among the well-known libraries.

    package.module:callable        anything importable
    path/to/file.py:callable       a file of the user's own
    torchvision:NAME               torchvision.models.get_model(NAME, weights=None, ...), no pretrained backbone either
    timm:NAME                      timm.create_model(NAME, pretrained=False, ...)
    transformers:NAME              a classifier of that configuration or local folder; returns its logits
    ultralytics:NAME               a YOLO of that structure, such as yolo11n; returns its raw boxes and class logits
    given:NAME-HASH                an object that this process was given (compress.models.given)

Libraries are imported when one of their models is made. A library's factory makes the structure with random weights; no
argument of it reads or fetches any. Published ones come through ``compress.models.hub``.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from compress.models import given
from compress.models.heads import Embedding, Logits, TextLogits
from compress.models.library_detectors import QueriesDetector, quietly, ultralytics_detector
from profiles.errors import UserError, first_line, unknown
from profiles.tables import load_object


def factory(reference: str) -> Callable[..., Any]:
    """Find the callable that ``reference`` names.

    Raises:
        UserError: there is none, or its library is not installed.
    """
    if given.is_given(reference):
        return _given(reference)
    kind, _, name = reference.partition(":")
    if kind in LIBRARIES and name:
        return LIBRARIES[kind](name)
    source, _, name = reference.rpartition(":")
    if source.endswith(".py"):
        module = load_file(Path(source))
        if not hasattr(module, name):
            raise UserError(f"{reference!r}: the file has no {name!r}")
        function: Callable[..., Any] = getattr(module, name)
        return function
    imported: Callable[..., Any] = load_object(reference)
    return imported


def relative_to(reference: str, folder: Path) -> str:
    """Make the path of a file in ``reference`` absolute, from ``folder``."""
    source, colon, name = reference.rpartition(":")
    if not source.endswith(".py") or Path(source).is_absolute():
        return reference
    return f"{(folder / source).resolve()}{colon}{name}"


def load_file(path: Path) -> ModuleType:
    """Import the module in a file, once; its folder is searched for what it imports.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _given(reference: str) -> Callable[..., Any]:
    value = given.resolve(reference)

    def build() -> Any:
        return copy.deepcopy(value) if isinstance(value, nn.Module) else value

    return build


def library(package: str) -> ModuleType:
    """Import a library of models.

    Raises:
        UserError: it is not installed, with the command; or does not import.
    """
    root = package.partition(".")[0]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"models of {root} need it installed; pip install 'edge-compress[{root}]' ({error})") from None
    except (ImportError, RuntimeError) as error:
        raise UserError(f"{root} is installed but does not import: {first_line(error, 300)}") from None


def _built(reference: str, make: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """Call a library's factory; whatever is wrong inside it is one line, since no user reads its traceback."""
    try:
        return make(**arguments)
    except Exception as error:
        raise UserError(
            f"{reference}: {type(error).__name__}: {first_line(error, 300)}; given: {dict(arguments)}"
        ) from error


def _torchvision(name: str) -> Callable[..., Any]:
    models = library("torchvision.models")
    if name not in models.list_models():
        raise UserError(unknown_model("torchvision", name, models.list_models()))

    def build(**arguments: Any) -> nn.Module:
        _check_arguments(f"torchvision:{name}", arguments)
        maker = models.get_model_builder(name)
        # detectors and segmenters would fetch a backbone; null cannot be written in a recipe
        none = {"weights": None, "weights_backbone": None}
        kept = {key: value for key, value in none.items() if key in inspect.signature(maker).parameters}
        return _built(f"torchvision:{name}", maker, {**kept, **arguments})

    return build


def _timm(name: str) -> Callable[..., Any]:
    timm = library("timm")
    if not timm.is_model(name):
        raise UserError(unknown_model("timm", name, timm.list_models()))

    def build(**arguments: Any) -> nn.Module:
        _check_arguments(f"timm:{name}", arguments)
        return _built(f"timm:{name}", timm.create_model, {"model_name": name, "pretrained": False, **arguments})

    return build


def _transformers(name: str) -> Callable[..., Any]:
    transformers = library("transformers")

    def build(**arguments: Any) -> nn.Module:
        _check_arguments(f"transformers:{name}", arguments)
        transformers.utils.logging.disable_progress_bar()
        wrap = WRAPPERS.get(str(arguments.get("head")), Logits)
        if Path(name).is_dir():
            kind, settings = transformers_head(arguments)
            local = {"local_files_only": True, "trust_remote_code": False, "weights_only": True, **settings}
            return wrap(_built(f"transformers:{name}", lambda: kind.from_pretrained(name, **local), {}))

        def configured(**settings: Any) -> nn.Module:
            auto, settings = transformers_head(settings)
            config = transformers.AutoConfig.for_model(name, **settings)
            config.architectures = config.architectures or []  # a kind with several classes (DeiT) looks through them
            module: nn.Module = auto.from_config(config)
            return module

        return wrap(_built(f"transformers:{name}", configured, arguments))

    return build


def _ultralytics(name: str) -> Callable[..., Any]:
    with quietly():
        library("ultralytics")

    def build(**arguments: Any) -> nn.Module:
        return _built(f"ultralytics:{name}", ultralytics_detector, {"name": name, **arguments})

    return build


HEADS = {
    "image": "AutoModelForImageClassification",
    "segments": "AutoModelForSemanticSegmentation",
    "sound": "AutoModelForAudioClassification",
    "text": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "embedding": "AutoModel",
    "boxes": "AutoModelForObjectDetection",
}
"""What a model of transformers answers, the argument ``head`` of ``transformers:NAME``: logits, or an embedding."""

WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "text": TextLogits,
    "tokens": TextLogits,
    "embedding": Embedding,
    "boxes": QueriesDetector,
}
"""Of heads whose models are given ids and a mask, or give more than logits."""


def transformers_head(arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class of transformers that makes models of the head that ``arguments`` ask for, and the other arguments.

    Raises:
        UserError: there is no such head.
    """
    settings = dict(arguments)
    head = settings.pop("head", "image")
    if head not in HEADS:
        raise UserError(unknown("head", str(head), HEADS, "transformers"))
    return getattr(library("transformers"), HEADS[head]), settings


READERS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "weights",
    "weights_backbone",
    "trust_remote_code",
    "backbone",
    "use_pretrained_backbone",
    "use_timm_backbone",
    "auto_map",
)
"""Arguments by which libraries would read or fetch weights: unpinned, unchecked, or where only a structure is wanted."""


def _check_arguments(reference: str, arguments: Mapping[str, Any]) -> None:
    wrong = [name for name in READERS if arguments.get(name)]
    if wrong:
        fact = f"{reference}: {', '.join(wrong)} would read or fetch weights, which no argument of a model does"
        raise UserError(f"{fact}; write pretrained = true beside model, or weights")


def unknown_model(source: str, name: str, known: Sequence[str]) -> str:
    """Word the fault of a name that a library does not have, with the nearest that it has."""
    near = difflib.get_close_matches(name, known, n=NEAREST, cutoff=0.5) or list(known[:NEAREST])
    return f"{source}:{name}: {source} has no model {name!r}; the nearest are {', '.join(near)}"


NEAREST = 5
"""Names that an error gives."""


LIBRARIES: dict[str, Callable[[str], Callable[..., Any]]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
    "ultralytics": _ultralytics,
}
