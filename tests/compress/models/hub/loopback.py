"""A hub on loopback: the part of the API that huggingface_hub uses, and a place for plain files. Faults are by file."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = re.compile(r"/api/models/(?P<repo>[^/?]+/[^/?]+)(?:/revision/(?P<revision>[^/?]+))?(?:\?.*)?$")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")


class Hub:
    """Repositories by name, each a list of commits: ``{"commit": ..., "files": {name: bytes}}``, the last being main.

    Attributes:
        lies: bytes that are sent of a file in place of its own; its stated hash stays.
        cut: files of which half is sent, so many times.
        slow_s: seconds before each answer.
        asked: paths of all requests.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, list[dict[str, Any]]] = {}
        self.plain: dict[str, bytes] = {}
        self.lies: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.slow_s = 0.0
        self.asked: list[str] = []
        self.url = ""

    @property
    def elsewhere(self) -> str:
        """Address of the files: another host, as with the hub."""
        return self.url.replace("127.0.0.1", "localhost")

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Add a commit; return its name."""
        name = hashlib.sha1(repr((repository, sorted(files.items()))).encode()).hexdigest()
        self.repositories.setdefault(repository, []).append({"commit": name, "files": files})
        return name

    def find(self, repository: str, revision: str | None) -> dict[str, Any] | None:
        commits = self.repositories.get(repository, [])
        if revision in (None, "main"):
            return commits[-1] if commits else None
        return next((commit for commit in commits if commit["commit"] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, *, head: bool) -> None:
        hub = self.hub
        hub.asked.append(self.path)
        time.sleep(hub.slow_s)
        if self.path in hub.plain:
            self._send(self.path, hub.plain[self.path], head=head)
        elif self.path.startswith("/elsewhere/"):
            self.send_response(302)
            self.send_header("Location", f"{hub.url}/{self.path.removeprefix('/elsewhere/')}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.startswith("/api/models?"):
            self._json([{"id": name, "modelId": name} for name in hub.repositories])
        elif match := API.match(self.path):
            self._about(match["repo"], match["revision"])
        elif match := RESOLVE.match(self.path):
            self._file(match["repo"], match["revision"], match["file"], head=head)
        else:
            self._json({"error": "no such page"}, 404)

    def _about(self, repository: str, revision: str | None) -> None:
        found = self.hub.find(repository, revision)
        if found is None:
            code = "RevisionNotFound" if repository in self.hub.repositories else "RepoNotFound"
            self._json({"error": "not found"}, 404, {"X-Error-Code": code})
            return
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": hashlib.sha1(content).hexdigest(),
                "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100},
            }
            for name, content in found["files"].items()
        ]
        self._json({"id": repository, "modelId": repository, "sha": found["commit"], "siblings": siblings, "private": False})

    def _file(self, repository: str, revision: str, name: str, *, head: bool) -> None:
        """Answer as the hub does: the commit and the etag, and for the bytes a redirect to where they lie."""
        found = self.hub.find(repository, revision)
        if found is None or name not in found["files"]:
            code = "EntryNotFound" if found else "RepoNotFound"
            self._json({"error": "not found"}, 404, {"X-Error-Code": code})
            return
        content = found["files"][name]
        place = f"/files/{repository}/{found['commit']}/{name}"
        self.hub.plain[place] = content
        self.send_response(302)
        for key, value in {
            "X-Repo-Commit": found["commit"],
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Location": f"{self.hub.elsewhere}{place}",
            "Content-Length": "0",
        }.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, path: str, content: bytes, *, head: bool) -> None:
        name = path.rpartition("/")[2]
        content = self.hub.lies.get(name, content)
        start = 0
        if match := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if head:
            return
        if self.hub.cut.get(name, 0) > 0:
            self.hub.cut[name] -= 1
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(content[start:])

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(key, text)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub until the end of the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that went away is no fault here
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
