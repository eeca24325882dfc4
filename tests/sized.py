"""Models and data of samples of unlike length: texts of ids with a mask, of up to 48 words."""

import numpy as np
import torch

from tests.several_inputs import Text


def long_texts(count=160, seed=0, width=48):
    """Return texts of 4 to ``width`` words, most of them short, and which of three words stands among the first four."""
    random = np.random.default_rng(seed)
    labels, ids = random.integers(0, 3, count), random.integers(3, 50, (count, width))
    ids[np.arange(count), random.integers(0, 4, count)] = labels
    lengths = np.where(random.random(count) < 0.6, random.integers(4, 13, count), random.integers(13, width + 1, count))
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}, labels


class Tags(torch.nn.Module):
    """Tag of each word: logits (samples, words, 3)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.text = Text()
        self.head = torch.nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask):
        return self.head(self.text.block(self.text.words(input_ids), src_key_padding_mask=attention_mask == 0))
