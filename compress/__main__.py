"""``python -m compress``."""

from compress.cli.main import script

if __name__ == "__main__":
    script()
