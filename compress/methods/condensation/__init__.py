"""Small sets that stand for a training split: by name, what each is made of.

A set is made by one file here, stored by ``stored`` with the teacher's soft labels (``soft_labels``), and read back as a
split (``stored_samples``). To add one: a final subclass of ``RecoverySet`` in a file here, and a line in ``SETS``.
"""

from __future__ import annotations

SETS: dict[str, str] = {
    "subset": "compress.methods.condensation.subset:SubsetSet",
    "random": "compress.methods.condensation.random_subset:RandomSet",
    "synthesised": "compress.methods.condensation.synthesised:SynthesisedSet",
    "match": "compress.methods.condensation.match:MatchSet",
    "compensated": "compress.methods.condensation.compensators:CompensatedSet",
    "file": "compress.methods.condensation.set_file:FileSet",
}

__all__ = ["SETS"]
