"""``python -m compress``."""

from compress.cli import script

if __name__ == "__main__":
    script()
