"""Pages of the site that are not in docs/: README, CONTRIBUTING, and one page of docstrings for each module."""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LOG = logging.getLogger("mkdocs.hooks")
ROOT = Path(__file__).parent.parent
PACKAGES = ("compress", "deploy", "calib", "profiles")
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for path, page in TOP.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__main__.py":
                files.append(File.generated(config, _page(path), content=f"::: {_module(path)}\n"))
    files.append(File.generated(config, "reference/index.md", content=_contents()))
    return files


def _contents() -> str:
    """Make the list of all modules, each with its first line."""
    lines = ["# Modules", ""]
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__main__.py":
                about = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
                lines.append(f"- [{_module(path)}]({posixpath.relpath(_page(path), 'reference')}): {about}")
    return "\n".join(lines) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at files of the repository to their pages; what has none is named without a link."""
    folder = ROOT if page.file.src_uri in TOP.values() else ROOT / "docs" / posixpath.dirname(page.file.src_uri)
    return LINK.sub(lambda match: _link(match, folder, page.file.src_uri, files), markdown)


def _link(match: re.Match[str], folder: Path, source: str, files: Files) -> str:
    text, (target, hash_, anchor) = match.group(1), match.group(2).partition("#")
    if not target or "://" in target:
        return match.group(0)
    path = (folder / target).resolve()
    if not path.exists():
        LOG.warning("%s: a link to %s, which does not exist", source, target)  # strict: ends the build
        return text
    page = _of_repository(path)
    if page is None or files.get_file_from_path(page) is None:
        return text
    return f"[{text}]({posixpath.relpath(page, posixpath.dirname(source) or '.')}{hash_}{anchor})"


def _of_repository(path: Path) -> str | None:
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "docs":
        return str(relative.relative_to("docs"))
    if str(relative) in TOP:
        return TOP[str(relative)]
    if relative.parts[0] in PACKAGES:
        return _page(path / "__init__.py" if path.is_dir() else path) if path.suffix in ("", ".py") else None
    return None


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _page(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    return f"reference/{relative.parent / 'index' if relative.name == '__init__' else relative}.md"
