"""Losses by name.

A loss is a function. Its positional parameters say what it reads, from this vocabulary:

    student_logits, teacher_logits        (samples, ..., classes)
    plain_logits                          the student's on the same samples not augmented, without gradient
    again_logits                          the student's on the same inputs a second time, with gradient
    student_features, teacher_features    lists of paired maps, (samples, channels, height, width)
    student_tokens, teacher_tokens        lists of paired sequences, (samples, tokens, width): blocks by depth
    student_blocks, teacher_blocks        the same blocks, maps or tokens as they are
    student_embedding, teacher_embedding  what the last linear layer reads, (samples, width)
    student_boxes, teacher_boxes          (samples, places, 4), for detection
    student_distributions, teacher_...    (samples, places, 4, bins), of detectors whose sides are distributions
    student_keypoints, teacher_...        (samples, places, points, 3), of detectors that find them
    student_coefficients, teacher_...     (samples, places, prototypes), of detectors with masks
    student_prototypes, teacher_...       (samples, prototypes, rows, columns), of the same
    targets                               as the task has them: for classes (samples, ...), -1 where there is no label,
                                          -2 of words whose tag is unknown
    task_loss                             the task's own loss on labels, a scalar
    indices                               which samples of the training split, (samples,)
    progress, epoch                       share of the training that is done, 0 to 1; whole epochs done

Its keyword parameters are its options in a recipe. It returns a scalar. To add one: the function in a
file here, and a line in ``LOSSES``. Nothing else knows a loss by name.

A loss with parts of its own (adapters, branches, what it remembers) is an ``nn.Module`` class: ``forward`` reads, keyword
parameters of ``__init__`` are its options. Where shapes decide its parts, ``__init__`` takes ``example``: what it reads, on
two samples. Its parameters are trained with the student's optimizer, its buffers are kept with the training, and none of it
is in the model that is exported. It is made with the same random parts whatever was drawn before.

Layers are paired by resolution (maps) or depth (tokens, blocks); ``layers`` of a loss in a recipe names others. Maps fold
into tokens and tokens into maps, whichever a loss reads.
"""

from __future__ import annotations

LOSSES: dict[str, str] = {
    "task": "compress.losses.task:task",
    # class scores
    "kd": "compress.losses.logits:kd",
    "bce_kd": "compress.losses.logits:bce_kd",
    "js": "compress.losses.logits:js",
    "dist": "compress.losses.logits:dist",
    "bd_kd": "compress.losses.logits:bd_kd",
    "dkd": "compress.losses.decoupled:dkd",
    "dbr": "compress.losses.distances:dbr",
    "nkd": "compress.losses.decoupled:nkd",
    "top_k_ld": "compress.losses.decoupled:top_k_ld",
    "ofa": "compress.losses.branches:Ofa",
    "pld": "compress.losses.ranking:pld",
    "sinkhorn": "compress.losses.transport:sinkhorn",
    "meal": "compress.losses.adversary:Meal",
    "taid": "compress.losses.moving:Taid",
    "ps_kd": "compress.losses.moving:PsKd",
    "tgeo": "compress.losses.controller:Tgeo",
    "self_gt": "compress.losses.guidance:SelfGt",
    "fer": "compress.losses.confidence:fer",
    "pseudo_labels": "compress.losses.confidence:pseudo_labels",
    "mdcs": "compress.losses.confidence:mdcs",
    "open_set": "compress.losses.confidence:open_set",
    "collaborative": "compress.losses.confidence:collaborative",
    "deit_lt": "compress.losses.heads:DeitLt",
    "dho": "compress.losses.heads:Dho",
    "aspects": "compress.losses.heads:Aspects",
    "two_passes": "compress.losses.passes:two_passes",
    "boxes": "compress.losses.boxes:boxes",
    "sides": "compress.losses.boxes:sides",
    "masks": "compress.losses.objects:masks",
    "keypoints": "compress.losses.objects:keypoints",
    "matched_queries": "compress.losses.boxes:matched_queries",
    # outputs that are no class scores
    "l1": "compress.losses.regression:l1",
    "l2": "compress.losses.regression:l2",
    "huber": "compress.losses.regression:huber",
    "pooled_logits": "compress.losses.regression:pooled_logits",
    # relations of samples, channels and tokens
    "sp": "compress.losses.relations:sp",
    "ickd": "compress.losses.relations:Ickd",
    "rkd": "compress.losses.relations:rkd",
    "diswot": "compress.losses.relations:diswot",
    "affinity": "compress.losses.relations:affinity",
    "edges": "compress.losses.relations:edges",
    "self_similarity": "compress.losses.relations:self_similarity",
    "codebook": "compress.losses.codes:Codebook",
    # features
    "attention": "compress.losses.features:attention",
    "cwd": "compress.losses.features:Cwd",
    "hcl": "compress.losses.features:Hcl",
    "dsi": "compress.losses.features:Dsi",
    "block_mse": "compress.losses.features:BlockMse",
    "transkd": "compress.losses.fusion:Transkd",
    "acam": "compress.losses.masks:Acam",
    "token_relations": "compress.losses.tokens:token_relations",
    "visible_tokens": "compress.losses.tokens:VisibleTokens",
    "ln_hidden": "compress.losses.tokens:LnHidden",
    "nd": "compress.losses.embeddings:Nd",
    "mi_alpha": "compress.losses.embeddings:MiAlpha",
    "align": "compress.losses.embeddings:Align",
}

__all__ = ["LOSSES"]
