"""The claims of docs/benchmarks.md's first table: each is one figure of one bench."""

from __future__ import annotations

CLAIMS = (
    (
        "Digits: the student in int8 is faster than its teacher in fp32 (OpenVINO, p50)",
        "spine",
        "digits student against teacher",
    ),
    ("and loses little", "spine", "its drop of top-1"),
    ("and beats the best model that costs no training", "spine", "digits student against the best free"),
    ("Int8 without training is no slower than NNCF's on the same float student", "spine", "int8 student on openvino"),
    ("nor than ONNX Runtime's own tool's", "spine", "int8 student on onnxruntime"),
    ("The demo from nothing", "spine", "demo from nothing"),
    ("and the same command again", "spine", "the same command again"),
    ("CIFAR-10, ResNet-56: faster than its teacher in fp32", "cifar", "student of ResNet-56 against teacher"),
    ("and loses little", "cifar", "its drop of top-1"),
    ("Blood cells, a detector of half the width in int8: faster", "detection", "student/openvino/int8 against"),
    ("and loses little mAP@.5", "detection", "its drop of mAP"),
    (
        "Int8 without training is no worse than NNCF's and ONNX Runtime's tools: ResNet-56",
        "int8:resnet56",
        "openvino: points",
    ),
    ("and no slower", "int8:resnet56", "openvino: p50"),
    ("the same: SqueezeNet", "int8:squeezenet", "openvino: points"),
    ("and no slower", "int8:squeezenet", "openvino: p50"),
    ("4-bit weights, ResNet-20: little lost", "quantised:four", "ResNet-20, 4-bit"),
    ("Pruned to twice the speed, ResNet-56: little lost after 15 epochs", "pruning_trained:2x", "2x: top-1 lost"),
    ("Pruned to four times the speed", "pruning_trained:4x", "4x: top-1 lost"),
    (
        "Pruning by latency beats pruning evenly at no less accuracy",
        "pruning:resnet56",
        "allocation by latency against uniform",
    ),
    (
        "A table of measured layers predicts the speed of whole pruned networks (median error)",
        "latency_table:resnet56",
        "ResNet-56",
    ),
    ("A latency in a report is the runtime's own tool's", "latency", "ResNet-56 fp32, OpenVINO"),
    ("A ship that is broken off leaves the old or the new model serving", "ship", "connection broken"),
    ("A bundle with one flipped bit is refused", "ship", "one bit flipped"),
)
"""Claim, bench, and how the text of its figure begins."""

IN_README = 7
"""So many of the first claims stand in README."""

HEADINGS = (
    (
        "Whole runs",
        "From a checkpoint to a bundle, as the command does it.",
        ("spine", "search", "cascade", "cifar", "detection", "yolo11", "yolo11_pruned", "tasks", "answer"),
    ),
    (
        "Int8 and fewer bits",
        "Post-training and trained quantisation, beside the runtimes' own tools on the same samples.",
        ("int8", "own_int8", "quantised", "squeezenet", "fastestdet", "select", "calibration", "sixteen_bits"),
    ),
    (
        "Pruning and low rank",
        "What cutting and factorising buys, and what recovery wins back.",
        ("shares", "pruning", "pruning_trained", "pruning_detector", "recovery", "condensation", "low_rank"),
    ),
    (
        "Distillation",
        "Teachers, losses and starts; the table of all losses is [losses.md](losses.md).",
        ("catalogue", "whitening"),
    ),
    (
        "Time",
        "Latencies against other tools, tables and estimates of latency, and what training costs.",
        (
            "latency",
            "bound_loops",
            "runtimes",
            "gpu",
            "latency_table",
            "estimate",
            "check",
            "loader",
            "throughput",
            "answering",
        ),
    ),
    ("Shipping", "Broken connections, flipped bits, what is sent.", ("ship",)),
)
"""Title, a sentence, and the benches under it."""
