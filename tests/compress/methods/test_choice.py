"""What stages chose, in a line for each family."""

from compress.methods.choice import Choice, summary


def weight(name, bits, kept, saved_kib):
    return Choice(
        name=name, kind="weight", family=f"{bits} bits", before=32, after=bits, kept=kept, bought=saved_kib, unit="KiB"
    )


def test_weights_are_told_by_their_bits():
    told = summary([weight("a", 8, 0.9999, 3.0), weight("b", 2, 0.9, 10.0), weight("c", 2, 0.85, 20.5)])
    assert told == [
        "8 bits: 1 weight, at least 100.0 % kept, 3 KiB saved",
        "2 bits: 2 weights, at least 85.0 % kept, 30.5 KiB saved",
    ]
