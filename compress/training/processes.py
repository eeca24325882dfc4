"""Whether processes that train one model remember the same."""

from __future__ import annotations

import hashlib

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.execution import distributed
from profiles.errors import UserError

GATHER = "compress.losses.base.of_all_processes"


def check_shared(parts: nn.Module) -> None:
    """Check after a step that what losses and weights remember is the same in every process.

    Running statistics of batch norms are left out: in training nothing reads them, and they ship with nothing.

    Raises:
        UserError: a loss remembers what its own process alone has seen; in every process.
    """
    if distributed.count() == 1:
        return
    digests = distributed.from_all(_digests(parts))
    apart = sorted({name for other in digests for name, digest in other.items() if digest != digests[0].get(name)})
    if apart:
        raise UserError(
            f"a loss or a weight remembers in {', '.join(apart)} what its own process alone has seen, and {len(digests)} "
            f"processes train; have it learn from {GATHER}(values), train in one process, or drop it"
        )


def _digests(parts: nn.Module) -> dict[str, str]:
    """Hash each buffer by name."""
    return {
        f"{path}.{name}".lstrip("."): hashlib.sha256(buffer.detach().cpu().numpy().tobytes()).hexdigest()
        for path, module in parts.named_modules()
        if not isinstance(module, _BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }
