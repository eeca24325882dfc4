"""A page in headless Chromium, where that is installed."""

import shutil
import subprocess

import pytest


def browser():
    """Return the browser's command; skips the test where there is none."""
    found = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here")
    return [found, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]


def shown(html, folder, moves=""):
    """Return what is in the page's last section once it is drawn and ``moves`` were made with its ``slider``."""
    script = f'<script>\nconst slider = document.querySelector("input");\n{moves}\n</script>'
    (folder / "page.html").write_text(html.replace("</body>", f"{script}</body>"))
    command = [*browser(), "--dump-dom", f"file://{folder}/page.html"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    return text[text.rindex('<section id="device') :]
