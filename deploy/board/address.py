"""Parsing of a board's URL."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

from profiles.errors import UserError

ROOT = "~/.edge-compress/device"
"""Beside the bundles that the board serves, which are not ours to clean away."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """The parts of a board's URL."""

    user: str | None
    host: str
    port: int | None
    python: str | None
    root: str

    @property
    def url(self) -> str:
        """The board's URL without its settings."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")

    @classmethod
    def read(cls, url: str) -> Address:
        """Parse ``url``.

        Raises:
            UserError: it is no such URL.
        """
        form = "write ssh://[user@]host[:port][?python=/path/to/python]"
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UserError(f"device {url!r}: {error}; {form}") from None
        query = dict(urllib.parse.parse_qsl(parts.query))
        host, user = parts.hostname or "", urllib.parse.unquote(parts.username or "")
        faults = [] if host and not host.startswith("-") else ["it names no host"]
        faults += ["a user's name does not begin with '-'"] if user.startswith("-") else []
        faults += ["a password does not belong in a URL; use a key"] if parts.password else []
        faults += ["it has a path"] if parts.path not in ("", "/") else []
        faults += [f"unknown setting {name!r}; known: python, root" for name in sorted(set(query) - {"python", "root"})]
        root = clean_root(query.get("root", ROOT))
        faults += ["its root has '..', a control character or nothing in it"] if root is None else []
        if faults or root is None:
            raise UserError(*[f"device {url!r}: {fault}; {form}" for fault in faults])
        return cls(user=user or None, host=host, port=port, python=query.get("python"), root=root)


def clean_root(root: str) -> str | None:
    """Return a root folder's path without doubled slashes, ``.`` and a slash at its end; None where it may not be one."""
    parts = [part for part in root.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or not root.isprintable() or root.startswith("-"):
        return None
    return ("/" if root.startswith("/") else "") + "/".join(parts)
