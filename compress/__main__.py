"""``python -m compress``; says so when a folder of the user's hides one of our packages."""

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("compress", "deploy", "calib", "profiles")


def hidden_packages() -> list[str]:
    """Find our packages that ``import`` would take from elsewhere: Python looks in the working directory first.

    Returns:
        One line for each, with the remedy.
    """
    home, faults = Path(__file__).resolve().parents[1], []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        places = [
            Path(place).resolve() for place in (spec.submodule_search_locations or [spec.origin or ""] if spec else [])
        ]
        if home / name not in places:
            place = places[0] if places else "nothing"
            faults.append(
                f"{place} hides edge-compress's own package {name!r}; start `compress` instead of `python -m compress`, or "
                "start it in another folder"
            )
    return faults


if __name__ == "__main__":
    if faults := hidden_packages():
        sys.stderr.writelines(f"error: {fault}\n" for fault in faults)
        sys.exit(2)
    from compress.cli.main import script

    script()
