"""Models of transformers as modules from inputs to one tensor: logits, or an embedding."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn
from torch.nn import functional


@final
class Logits(nn.Module):
    """Wrap a classifier of transformers as a module from its one input to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._input = str(getattr(model, "main_input_name", "pixel_values"))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map pixels (samples, channels, height, width), or sounds as the model takes them, to logits (samples, classes)."""
        logits: Tensor = self.model(**{self._input: inputs}).logits
        return logits


@final
class TextLogits(nn.Module):
    """Wrap a classifier of texts or of their tokens as a module from ids and a mask to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Map ids (samples, tokens) to logits (samples, classes), or (samples, tokens, classes)."""
        logits: Tensor = self.model(**_given(input_ids, attention_mask, token_type_ids)).logits
        return logits


@final
class Embedding(nn.Module):
    """Wrap an encoder of texts as a module to embeddings of length 1: the mean over the words (Reimers, Gurevych 2019)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Map ids (samples, tokens) to (samples, width)."""
        hidden: Tensor = self.model(**_given(input_ids, attention_mask, token_type_ids)).last_hidden_state
        words = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return functional.normalize((hidden * words).sum(1) / words.sum(1).clamp(min=1e-9), dim=-1)


def _given(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> dict[str, Any]:
    kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    return {"input_ids": input_ids, "attention_mask": attention_mask, **kinds}
