"""Memory layout of convolutions in training: channels last where that is safe and measured to be faster.

The backward pass of a 1x1 convolution with a stride and few input channels writes outside of its memory in channels last
(torch 2.13 and 2.14 on some processors: the stems of RepVGG and MobileOne). A probe in a process of its own finds out
whether it does here; such layers then stay contiguous, whatever the others are in.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.models.layers import flat_tensors

FEW_INPUTS = 16
"""A strided 1x1 convolution with fewer input channels a group is probed; of this many and more none was seen to fail."""
PROBE_SIZES = (36, 56, 112)
"""Sides of the outputs that are probed: whether memory is written past depends on how buffers of that size are rounded."""
LARGEST_PROBE = 448
"""Side of the largest image that is probed, in pixels."""
PROBE_LIMIT_S = 300.0
CHECKED_HEAP = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}
"""Environment in which glibc ends a process that wrote past its memory, which else only sometimes dies. Where the library
is not installed the loader says so and goes on without."""
ROUNDS = 3
"""Passes of each layout that are timed; the least counts."""
LEAST_FASTER = 1.05
"""Contiguous has to be so many times faster to be taken: then a choice does not hang on noise."""
WORTH_MEASURING_STEPS = 100
"""Shorter trainings are in channels last unmeasured: what measuring takes, they could not win back."""

Geometry = tuple[int, int, int, int, int]
"""Inputs, outputs, both strides, groups."""

PROBE = """
import json, resource, sys
import torch
from torch.nn import functional
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
torch.set_num_threads(1)
given = json.loads(sys.argv[1])
inputs, outputs, down, across, groups = given["geometry"]
for dtype in (torch.float32, *([torch.bfloat16] if given["bf16"] else [])):
    for size in given["sizes"]:
        torch.manual_seed(0)
        kernel, image = torch.randn(outputs, inputs // groups, 1, 1), torch.randn(4, inputs, size, size)
        kernel, image = (x.to(dtype) for x in (kernel, image))
        gradients, held = [], []
        for layout in (torch.contiguous_format, *[torch.channels_last] * 3):
            weight = kernel.clone(memory_format=layout).requires_grad_()
            laid = image.clone(memory_format=layout)
            found = functional.conv2d(laid, weight, None, (down, across), groups=groups)
            found.float().square().mean().backward()
            gradients.append(weight.grad.float().clone())
            held.append([torch.empty(n) for n in range(1, 400, 7)])
        scale = gradients[0].abs().max() * (1e-3 if dtype is torch.float32 else 5e-2)
        if any((other - gradients[0]).abs().max() > scale for other in gradients[1:]):
            sys.exit("other gradients than contiguous")
print("sound")
"""


def suspect_layers(module: nn.Module) -> dict[str, Geometry]:
    """Return the paths of strided 1x1 convolutions with few inputs, with their geometry."""
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    suspects = {path: _suspect(layer.weight, layer.stride, layer.groups) for path, layer in layers.items()}
    return {path: geometry for path, geometry in suspects.items() if geometry is not None}


def program_suspects(module: nn.Module) -> list[Geometry]:
    """Return the geometry of such convolutions among the calls of captured programs, which have no layers."""
    suspects: list[Geometry] = []
    for program in module.modules():
        if isinstance(program, fx.GraphModule):
            calls = [node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default]
            geometries = [_called(program, node) for node in calls]
            suspects += [geometry for geometry in geometries if geometry is not None]
    return suspects


def _called(program: fx.GraphModule, node: fx.Node) -> Geometry | None:
    given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation", "groups"), node.args, strict=False))
    given |= node.kwargs
    shape = given["weight"].meta.get("val", None) if isinstance(given["weight"], fx.Node) else None
    if shape is None:
        return None
    return _suspect(shape, given.get("stride", (1, 1)), given.get("groups", 1))  # type: ignore[arg-type]


def _suspect(weight: Tensor, stride: Sequence[int], groups: int) -> Geometry | None:
    """Return the geometry of a convolution that is to be probed: a kernel (outputs, inputs a group, 1, 1) with a stride."""
    outputs, inputs, *kernel = weight.shape
    if kernel != [1, 1] or max(stride) == 1 or inputs >= FEW_INPUTS:
        return None
    down, across = stride
    return (inputs * groups, outputs, down, across, groups)


def broken_layers(module: nn.Module, bf16: bool) -> list[str]:
    """Return the paths of convolutions that must stay contiguous on this processor.

    Args:
        bf16: whether training computes in bf16, so that the probe looks at that too.
    """
    return [path for path, geometry in suspect_layers(module).items() if not is_sound(geometry, bf16)]


def is_broken_program(module: nn.Module, bf16: bool) -> bool:
    """Return whether a captured program within ``module`` has a convolution that must stay contiguous."""
    return any(not is_sound(geometry, bf16) for geometry in program_suspects(module))


@functools.cache
def is_sound(geometry: Geometry, bf16: bool) -> bool:
    """Return whether a convolution's backward pass in channels last ends, with the gradients of the contiguous one."""
    given = json.dumps({"geometry": geometry, "bf16": bf16, "sizes": _probed_sides(geometry)})
    command, environment = [sys.executable, "-c", PROBE, given], {**os.environ, **CHECKED_HEAP}
    try:
        probe = subprocess.run(command, env=environment, capture_output=True, timeout=PROBE_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def _probed_sides(geometry: Geometry) -> list[int]:
    """Return the sides of the images to probe, in pixels: those of the outputs, times the stride."""
    _, _, down, across, _ = geometry
    return sorted({min(size * max(down, across), LARGEST_PROBE) for size in PROBE_SIZES})


@contextmanager
def laid_out(module: nn.Module, layout: torch.memory_format, contiguous: Sequence[str] = ()) -> Iterator[None]:
    """Put the kernels of ``module`` into a layout for the block, those of ``contiguous`` and what they read apart."""
    layers = {module.get_submodule(path) for path in contiguous}
    apart = {id(parameter) for layer in layers for parameter in layer.parameters()}
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(_read_contiguous).remove)
        try:
            for parameter in module.parameters():
                set_layout(parameter, torch.contiguous_format if id(parameter) in apart else layout)
            yield
        finally:
            for parameter in module.parameters():
                set_layout(parameter, torch.contiguous_format)


def set_layout(parameter: Tensor, layout: torch.memory_format) -> None:
    """Put a kernel (outputs, inputs, height, width) into a layout; other parameters have none."""
    if parameter.dim() == 4:
        # a copy: of one channel or 1x1 kernels both formats are contiguous, and kernels are chosen by the strides
        parameter.data = parameter.data.clone(memory_format=layout)


def faster_layout(
    module: nn.Module,
    inputs: Tensor,
    contiguous: Sequence[str] = (),
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> torch.memory_format:
    """Time forward and backward passes of a copy of ``module`` in both layouts, in turns.

    Args:
        inputs: a batch as in training, (samples, channels, height, width).
        contiguous: layers that stay contiguous, see ``broken_layers``.

    Returns:
        Channels last, unless contiguous is ``LEAST_FASTER`` times faster; that too where a pass cannot be timed. Random
        numbers are drawn as without the call.
    """
    devices = [] if inputs.device.type == "cpu" else [inputs.device]
    with torch.random.fork_rng(devices):
        try:
            least = _least_seconds(copy.deepcopy(module).train(), inputs, contiguous, autocast)
        except (RuntimeError, TypeError, ValueError):  # cannot be copied, or has no gradient without a loss
            return torch.channels_last
    is_faster = least[torch.channels_last] >= LEAST_FASTER * least[torch.contiguous_format]
    return torch.contiguous_format if is_faster else torch.channels_last


def _least_seconds(
    module: nn.Module, inputs: Tensor, contiguous: Sequence[str], autocast: Callable[[], AbstractContextManager[Any]]
) -> dict[torch.memory_format, float]:
    """Measure the least time of a forward and backward pass in each layout."""
    layouts = (torch.channels_last, torch.contiguous_format)
    least = dict.fromkeys(layouts, math.inf)
    for turn in range(ROUNDS + 1):
        for layout in layouts:
            with laid_out(module, layout, contiguous):
                seconds = _pass_seconds(module, inputs.clone(memory_format=layout), autocast)
            if turn:  # the first warms up
                least[layout] = min(least[layout], seconds)
    return least


def _pass_seconds(module: nn.Module, inputs: Tensor, autocast: Callable[[], AbstractContextManager[Any]]) -> float:
    started = time.perf_counter()
    with autocast():
        outputs = flat_tensors(module(inputs))
    torch.stack([output.float().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    module.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def _read_contiguous(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    # a copy: ``contiguous`` leaves one channel with the strides of channels last, and kernels are chosen by the strides
    return tuple(
        value.clone(memory_format=torch.contiguous_format) if isinstance(value, Tensor) else value for value in given
    )
