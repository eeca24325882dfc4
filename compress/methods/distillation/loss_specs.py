"""Parse and check the losses of a recipe: names, weights, options and layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from compress.data.options import option_faults
from compress.losses import LOSSES
from compress.losses.base import VOCABULARY, PerSampleLoss, TwoHeaded
from compress.methods.distillation.loss_weights import WEIGHTS
from compress.methods.distillation.sample_weights import SampleWeight
from compress.models import given
from compress.models.factory import factory
from profiles.errors import UserError, unknown
from profiles.tables import load_object, look_up, with_entry_points

RESERVED = ("use", "weight", "layers")
ANY_SHAPE = {name: Tensor(2, 2) for name in ("student_logits", "teacher_embedding")}
"""An example for weights that are made to see whether their settings are right."""


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """One loss of a recipe: ``"kd"``, or ``{use = "kd", weight = 0.9, temperature = 2.0}``.

    Attributes:
        use: a name of the table, or the reference of a loss that was given as an object (``compress.models.given``).
        weight: a number, or a table of ``loss_weights.py`` beside this file: ``{use = "gradient_share", share = 0.1}``.
        layers: pairs of modules of student and teacher to compare, instead of those found.
    """

    use: str
    weight: float | Mapping[str, Any] = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[tuple[str, str], ...] = ()


def losses() -> dict[str, str]:
    """Return the table of losses, with those that installed packages add."""
    return with_entry_points(LOSSES, "edge_compress.losses")


def loss_named(use: str) -> Any:
    """Look up a loss by its name, by ``file.py:callable`` or ``module:callable``, or as it was given as an object.

    Raises:
        UserError: there is none of that name, or this process was not given it.
    """
    if given.is_given(use):
        return given.resolve(use)
    return factory(use) if ":" in use and use not in losses() else look_up("loss", use, losses())


def weights() -> dict[str, str]:
    """Return the table of loss weights, with those that installed packages add."""
    return with_entry_points(WEIGHTS, "edge_compress.weights")


def parse_losses(value: Any) -> tuple[LossSpec, ...]:
    """Parse a recipe's list of losses.

    Raises:
        ValueError: not a list of names and tables, an unknown loss, an unknown or misplaced option; all at once.
    """
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('losses is a list with at least one entry, such as ["task", {use = "kd", weight = 0.9}]')
    faults: list[str] = []
    specs = [_parse(entry, faults) for entry in value]
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(spec for spec in specs if spec is not None)


def _parse(entry: Any, faults: list[str]) -> LossSpec | None:
    if isinstance(entry, LossSpec):
        return entry
    table = {"use": entry} if isinstance(entry, str) or callable(entry) else entry
    if not isinstance(table, dict) or "use" not in table:
        faults.append(f"a loss is a name or a table with 'use'; given: {entry!r}")
        return None
    name, options = table["use"], {k: v for k, v in table.items() if k not in RESERVED}
    if not isinstance(name, str) and not callable(name):
        faults.append(f"a loss's use is a name; given: {str(name)[:80]}")
        return None
    if callable(name) and (name := _registered(name, faults)) is None:
        return None
    if name not in losses() and ":" not in str(name):
        faults.append(unknown("loss", str(name), losses()) + "; or file.py:callable")
        return None
    try:
        loss = loss_named(name)
        unread = [word for word in loss_inputs(loss) if word not in VOCABULARY]
    except (UserError, TypeError, ValueError) as error:
        faults.append(f"loss {name}: {error}")
        return None
    if unread:
        faults.append(f"loss {name}: it reads {', '.join(unread)}; losses can read {', '.join(VOCABULARY)}")
        return None
    weight = _weight(table.get("weight", 1.0), name, loss, faults)
    layers = _layers(table.get("layers", ()), name, loss, faults)
    faults += option_faults(loss, options, f"loss {name}", keyword_only=True)
    return LossSpec(use=name, weight=weight, options=options, layers=layers)


def _registered(loss: Callable[..., Any], faults: list[str]) -> str | None:
    """Keep a loss that is given as an object; returns its reference."""
    try:
        reads = loss_inputs(loss)
        unread = [word for word in reads if word not in VOCABULARY]
        if not reads or unread:
            words = (
                f"reads {', '.join(unread) or 'nothing'}; its positional parameters are of {', '.join(sorted(VOCABULARY))}"
            )
            faults.append(f"loss {getattr(loss, '__name__', type(loss).__name__)}: {words}")
            return None
        return given.register_loss(loss)
    except UserError as error:
        faults += error.faults
    except (TypeError, ValueError) as error:
        faults.append(f"loss {loss!r}: {error}; give a function or an nn.Module")
    return None


def _weight(given: Any, name: str, loss: Callable[..., Any], faults: list[str]) -> float | Mapping[str, Any]:
    if isinstance(given, int | float) and given >= 0:
        return float(given)
    if not isinstance(given, Mapping) or "use" not in given:
        allowed = f"or a table with 'use' ({', '.join(weights())})"
        faults.append(f"loss {name}: weight is a number of at least 0; given: {given!r}; {allowed}")
        return 1.0
    if given["use"] not in weights():
        faults.append(unknown("weight", str(given["use"]), weights(), f"loss {name}"))
        return 1.0
    kind = load_object(weights()[given["use"]])
    settings = {key: value for key, value in given.items() if key != "use"}
    wrong = option_faults(kind, settings, f"loss {name}: weight {given['use']}", keyword_only=True)
    faults += wrong
    if issubclass(kind, SampleWeight) and not isinstance(loss, PerSampleLoss):
        able = [each for each, reference in losses().items() if isinstance(load_object(reference), PerSampleLoss)]
        fact = f"loss {name}: weight {given['use']} differs from sample to sample, and this loss gives one value a batch"
        faults.append(f"{fact}; those that can: {', '.join(able)}")
    if not wrong:
        try:
            kind(*([ANY_SHAPE] if needs_example(kind) else []), **settings)
        except UserError as error:
            faults += [f"loss {name}: {fault}" for fault in error.faults]
    return dict(given)


def _layers(given: Any, name: str, loss: Callable[..., Any], faults: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = list(given) if isinstance(given, list | tuple) else [given]
    if not all(isinstance(p, list | tuple) and len(p) == 2 and all(isinstance(name, str) for name in p) for p in pairs):
        faults.append(f'loss {name}: layers is a list of pairs, [["student.layer", "teacher.layer"]]; given: {given!r}')
        return ()
    if pairs and not any(is_layer_input(read) for read in loss_inputs(loss)):
        faults.append(f"loss {name}: it compares no layers, so it takes no layers")
    return tuple((pair[0], pair[1]) for pair in pairs)


def is_layer_input(name: str) -> bool:
    """Return whether a loss input is a list of layers' outputs."""
    return name.partition("_")[2] in ("features", "tokens", "blocks")


def loss_options(loss: Callable[..., Any]) -> list[str]:
    """Return the options of a loss in a recipe."""
    if isinstance(loss, nn.Module):
        return []  # it has been made
    return [p.name for p in inspect.signature(loss).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]


def loss_inputs(loss: Callable[..., Any]) -> list[str]:
    """Return the inputs of a loss: the positional parameters of a function, or of the ``forward`` of a class."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    called = loss.forward if isinstance(loss, type | nn.Module) else loss  # type: ignore[union-attr]  # an nn.Module
    names = [p.name for p in inspect.signature(called).parameters.values() if p.kind in kinds]
    return [name for name in names if name != "self"]


def weight_inputs(weight: float | Mapping[str, Any]) -> list[str]:
    """Return the inputs of a per-sample weight besides a loss's values; nothing for other weights."""
    if isinstance(weight, int | float) or not issubclass(kind := load_object(weights()[weight["use"]]), SampleWeight):
        return []
    return [name for name in loss_inputs(kind) if name not in ("values", "chosen")]


def needs_example(loss: Callable[..., Any]) -> bool:
    """Return whether a loss is a class whose parts take their shapes from an example."""
    return isinstance(loss, type) and "example" in inspect.signature(loss).parameters


def needs_labels(specs: tuple[LossSpec, ...]) -> list[str]:
    """Return the losses among ``specs`` that read labels."""
    return [spec.use for spec in specs if {"task_loss", "targets"} & set(loss_inputs(loss_named(spec.use)))]


def needs_unmixed(specs: tuple[LossSpec, ...]) -> list[str]:
    """Return the losses among ``specs`` that read what belongs to one sample, so that images must not be mixed."""
    inputs = [(spec.use, {*loss_inputs(loss_named(spec.use)), *weight_inputs(spec.weight)}) for spec in specs]
    return [use for use, words in inputs if {"task_loss", "targets", "indices", "plain_logits"} & words]


def two_head_losses(table: Mapping[str, str]) -> list[str]:
    """Return the losses of a table that train a second head beside the student's."""
    kinds = {name: load_object(reference) for name, reference in table.items()}
    return [name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, TwoHeaded)]


def loss_modules(specs: tuple[LossSpec, ...]) -> list[str]:
    """Return the modules that define these losses; the code of given ones is in their references."""
    named = [spec.use for spec in specs if not given.is_given(spec.use)]
    return [losses()[use].partition(":")[0] if use in losses() else str(loss_named(use).__module__) for use in named]
