"""Calibration cache of TensorRT up to 10 (JetPack 5 has 8.5)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

Scales = Mapping[str, tuple[float, int]]


def format_table(scales: Scales, *, version: int = 8502, algorithm: str = "EntropyCalibration2") -> str:
    """Format a calibration cache: one tensor per line, its scale as the bits of a float32 in hex.

    Args:
        scales: scale and zero point by tensor.
        version: TensorRT's as one number, 8502 for 8.5.2; a calibrator of another version calibrates anew.

    Raises:
        ValueError: a zero point is not 0; these calibrators know symmetric ranges alone.
    """
    wrong = [tensor for tensor, (_, zero) in scales.items() if zero != 0]
    if wrong:
        raise ValueError(f"TensorRT's calibration table has no zero points; {', '.join(wrong)} has one")
    head = f"TRT-{version}-{algorithm}\n"
    return head + "".join(f"{tensor}: {struct.pack('>f', scale).hex()}\n" for tensor, (scale, _) in scales.items())


def parse_table(text: str) -> dict[str, tuple[float, int]]:
    """Parse the scales in a calibration cache.

    Raises:
        ValueError: it is none.
    """
    head, *lines = text.splitlines() or [""]
    if not head.startswith("TRT-"):
        raise ValueError(f"not a calibration table of TensorRT: it begins with {head[:40]!r}")
    pairs = (line.rpartition(": ") for line in lines if line.strip())
    return {tensor: (float(struct.unpack(">f", bytes.fromhex(bits))[0]), 0) for tensor, _, bits in pairs}
