"""Files of a hub by ``huggingface_hub``, each checked against the hash that the hub states. No network without a name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, final

from compress.models.hub.records import Pin, PinnedFile
from deploy.files import sha256
from profiles.errors import UserError, first_line, one_line

Say = Callable[[str], None]
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = 10.0
SHOWN = 5
"""Nearest names that an error gives."""


@final
@dataclass(frozen=True, kw_only=True)
class Repository:
    """One commit of a repository of the hub.

    Attributes:
        model: the name in the recipe, for errors.
        files: names, and the SHA-256 that the hub states where it does.
        fetched: what was fetched, by name.
    """

    model: str
    name: str
    commit: str
    files: Mapping[str, str]
    say: Say
    fetched: dict[str, PinnedFile] = field(default_factory=dict)

    def fetch(self, name: str) -> Path:
        """Download a file, or find it in the cache.

        Raises:
            UserError: it is not there, does not arrive, or is not what the hub says that it is.
        """
        hub = _hub()
        try:
            if hub.try_to_load_from_cache(self.name, name, revision=self.commit) is None:
                self.say(f"  {self.model}: fetching {name} of {self.name} at {self.commit[:12]}")
            with _quiet(hub):
                path = Path(hub.hf_hub_download(self.name, name, revision=self.commit, endpoint=_endpoint()))
        except Exception as error:  # of a network anything may come
            raise UserError(_not_fetched(self.model, self.name, name, error)) from error
        digest, stated = sha256(path), self.files.get(name, "")
        if stated and stated != digest:
            fact = f"{self.model}: {name} has the SHA-256 {digest[:12]}, and the hub states {stated[:12]}"
            raise UserError(f"{fact}; what came is broken or was altered: delete {path.resolve()} and run again")
        self.fetched[name] = PinnedFile(name=name, sha256=digest, size_bytes=path.stat().st_size)
        return path

    def first_of(self, names: Sequence[str], what: str) -> str:
        """Return the first of the file names that is there.

        Raises:
            UserError: none is.
        """
        found = next((name for name in names if name in self.files), None)
        if found is None:
            has = one_line(", ".join(sorted(self.files)) or "nothing", 200)
            raise UserError(f"{self.model}: {self.name} has no {what} ({', '.join(names)}); it has {has}")
        return found

    def pin(self, model: str, asked: str) -> Pin:
        """Return what was fetched as an entry of a lock."""
        files = tuple(self.fetched[name] for name in sorted(self.fetched, key=lambda name: (name in WEIGHTS, name)))
        return Pin(model=model, asked=asked, source=self.name, revision=self.commit, files=files)


WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of files of weights, the preferred first."""


def open_repository(model: str, name: str, revision: str, held: Pin | None, wanted: Sequence[str], say: Say) -> Repository:
    """Find a repository at a revision: the commit that the lock has, else what the hub says now, else what is cached.

    Args:
        model: the name in the recipe, for errors.
        held: the lock's entry for it.
        wanted: files that are looked for in the cache where the hub cannot be reached.

    Raises:
        UserError: there is no such repository or revision, or the hub cannot be reached and nothing is cached.
    """
    hub = _hub()
    if held is not None:
        files = {file.name: "" for file in held.files}  # their hashes are the lock's affair
        return Repository(model=model, name=name, commit=_commit(model, held.revision), files=files, say=say)
    errors = hub.errors
    try:
        about = hub.HfApi(endpoint=_endpoint()).model_info(
            name, revision=revision or None, files_metadata=True, timeout=TIMEOUT_S
        )
    except errors.GatedRepoError as error:
        words = f"its owner asks for a word first: accept it at {_page(name)}, then run `hf auth login`"
        raise UserError(f"{model}: {name} is gated; {words}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{model}: there is no repository {name!r} on the hub, or it is private{_nearest(name)}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{model}: {name} has no revision {revision!r}; its revisions: {_page(name)}/commits/main"
        ) from error
    except errors.HFValidationError as error:
        raise UserError(f"{model}: no name of a repository ({first_line(error, 160)}); write it as hf:OWNER/NAME") from error
    except Exception as error:  # no way to the hub
        return _cached(model, name, revision, wanted, say, error)
    siblings = about.siblings or []
    stated = {str(each.rfilename): _stated(each) for each in siblings}
    return Repository(model=model, name=name, commit=_commit(model, str(about.sha)), files=stated, say=say)


def _stated(sibling: Any) -> str:
    """Return the SHA-256 that the hub states of a file; empty for the small ones, of which it states none."""
    lfs = getattr(sibling, "lfs", None)
    digest = lfs.get("sha256") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
    return str(digest or "")


def _cached(model: str, name: str, revision: str, wanted: Sequence[str], say: Say, error: Exception) -> Repository:
    """Find what is cached of a repository that cannot be asked for."""
    commits = _cached_commits(name)
    chosen = [commits[revision]] if revision in commits else [] if revision else list(commits.values())
    if not chosen or not set(wanted) & chosen[-1].keys():
        raise UserError(_unreachable(model, name, error)) from error
    there, commit = chosen[-1], next(commit for commit, files in commits.items() if files is chosen[-1])
    say(f"  {model}: {_endpoint()} cannot be reached; what is cached of {name} is taken, {commit[:12]}")
    return Repository(model=model, name=name, commit=_commit(model, commit), files=there, say=say)


def _cached_commits(name: str) -> dict[str, dict[str, str]]:
    """List the commits of a repository that are cached, the latest last, each with its files; branches and tags beside."""
    hub = _hub()
    try:
        repositories = hub.scan_cache_dir(hub.constants.HF_HUB_CACHE).repos
    except (hub.CacheNotFound, OSError):
        return {}
    own = [each for each in repositories if each.repo_id == name and each.repo_type == "model"]
    kept = sorted((r for each in own for r in each.revisions), key=lambda r: float(r.last_modified))
    return {str(r.commit_hash): dict.fromkeys(sorted(str(f.file_name) for f in r.files), "") for r in kept}


def _commit(model: str, given: str) -> str:
    if not COMMIT.fullmatch(given):
        raise UserError(f"{model}: {given[:80]!r} is no commit of a repository; is {_endpoint()} a hub?")
    return given


def _not_fetched(model: str, repository: str, file: str, error: Exception) -> str:
    errors = _hub().errors
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return _unreachable(model, repository, error)
    if isinstance(error, errors.EntryNotFoundError):
        return f"{model}: {repository} has no file {file}; {_page(repository)} lists what it has"
    return f"{model}: {file} of {repository} did not arrive ({first_line(error, 160)}); run again, it goes on from there"


def _unreachable(model: str, repository: str, error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    fact = f"{model}: {_endpoint()} cannot be reached ({first_line(cause, 160)}), and {repository} is not in the cache"
    return f"{fact}; connect once, or `hf download {repository}` elsewhere and copy ~/.cache/huggingface, or give weights"


def _nearest(name: str) -> str:
    """Ask the hub for the nearest names; empty where it says none."""
    owner, _, short = name.rpartition("/")
    try:
        query, api = re.split(r"[-_.]", short)[0], _hub().HfApi(endpoint=_endpoint())
        found = [str(each.id) for each in api.list_models(search=query, author=owner or None, limit=100)]
    except Exception:  # it is a hint
        return ""
    near = difflib.get_close_matches(name, found, n=SHOWN, cutoff=0.5) or found[:SHOWN]
    return f"; the nearest are {', '.join(near)}" if near else ""


@contextmanager
def _quiet(hub: ModuleType) -> Iterator[None]:
    """Keep the library from telling each of its attempts; what fails is told once, here."""
    before = hub.logging.get_verbosity()
    hub.logging.set_verbosity_error()
    try:
        yield
    finally:
        hub.logging.set_verbosity(before)


def _endpoint() -> str:
    return str(_hub().constants.ENDPOINT)


def _page(name: str) -> str:
    return f"{_endpoint()}/{name}"


def _hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        words = "names of the hub need huggingface_hub"
        raise UserError(f"{words}; pip install 'edge-compress[hf]'") from None
    # no telemetry; set here since the environment is read when it is imported, by others perhaps
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub
