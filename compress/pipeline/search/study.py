"""A study of Optuna on a device: where trials are kept, and what becomes of those whose process died.

Any number of processes and hosts may work on one study. The trial of a process that died is given out again: at once by
another process on the same host, which sees that it is gone, or else when its heartbeat has been missing for a while.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from compress.recipe.search import SearchSpec
from profiles.errors import UserError, first_line, one_line

if TYPE_CHECKING:
    import optuna

HEARTBEAT_S = 30
GRACE, LEAST_GRACE_S = 4, 60
"""Heartbeats that may be missing, and how long at least: a busy machine lets a thread wait for seconds."""
MOST_TRIES = 3
DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)
"""What reading a damaged database or journal raises beside the errors of its libraries."""
WORKER = "worker"
JOURNAL = "journal://"
POLL_S = 0.5
SAMPLED = 10
"""Trials at random before the sampler learns of them."""


@final
@dataclass(frozen=True, kw_only=True)
class Stopped(Exception):  # noqa: N818  # no error: a trial that ends early
    """A trial that is stopped, and why."""

    reason: str


def import_optuna() -> Any:
    """Import Optuna, quiet."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Heartbeats and grouped sampling are called experimental; what we ask of them is tested here.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def open_study(
    url: str, name: str, spec: SearchSpec, seed: int | None, base: str, *, heartbeat_s: int = HEARTBEAT_S
) -> optuna.Study:
    """Open a study, or begin it.

    Args:
        url: of Optuna's storage: ``sqlite:///FILE``, ``postgresql://...``, ``mysql://...``, or ``journal://FILE``.
        seed: of the sampler, with how many trials there are; None where processes share a study: they must not try the same.
        base: digest of everything that makes trials comparable; a study of another is refused.

    Raises:
        UserError: there is no such storage, or the study is another search's.
    """
    optuna = import_optuna()
    with storage_errors(url):
        study = optuna.create_study(
            storage=_storage(url, heartbeat_s),
            study_name=name,
            directions=["maximize" if objective == "accuracy" else "minimize" for objective in spec.objectives],
            pruner=_pruner(spec),
            load_if_exists=True,
        )
        study.sampler = _sampler(spec, None if seed is None else seed + len(study.get_trials(deepcopy=False)))
        kept = study.user_attrs.get("base")
        if kept is None:
            study.set_user_attr("base", base)
    if kept not in (None, base):
        raise UserError(f"{url}: the study {name!r} there is of another recipe or [search]; give another --out or --join")
    return study


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Tell what a storage raises, within the block, in one line: its database is another's, damaged or cannot be reached.

    Raises:
        UserError: says what.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"--join {url}: its database needs a package that is not installed: {error}") from None
    except Exception as error:  # SQLAlchemy's own, each driver's within, and of a damaged file what reading it raises
        source = type(error).__module__.partition(".")[0]
        if source not in ("sqlalchemy", "optuna") and not isinstance(error, DAMAGE):
            raise
        words = "where it is damaged, restore it or give another --out or --join"
        raise UserError(f"--join {url}: {first_line(error, 200)}; {words}") from error


def work(
    study: optuna.Study,
    run: Callable[[optuna.Trial], Sequence[float]],
    most: int | None,
    until: float,
    say: Callable[[str], None],
) -> None:
    """Work on a study until ``most`` trials of all processes are done, or ``until`` (``time.monotonic``) is over.

    Args:
        run: runs a trial; raises ``Stopped`` where it ends early.
    """
    library = import_optuna()
    states = library.trial.TrialState
    taken: list[int] = []
    own_faults: list[BaseException] = []

    def objective(trial: optuna.Trial) -> Sequence[float]:
        taken[:] = [trial.number]
        trial.set_user_attr(WORKER, _worker())
        try:
            return run(trial)
        except Stopped as stopped:
            trial.set_user_attr("reason", stopped.reason)
            say(f"  stopped: {stopped.reason}")
            raise library.TrialPruned(stopped.reason) from None
        except BaseException as error:
            if _state(study, trial.number) == states.RUNNING:  # else another process has given it out again already
                own_faults.append(error)
                study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
            raise

    told = False
    while time.monotonic() < until:
        take_back(study, say)
        trials = study.get_trials(deepcopy=False)
        done = sum(trial.state in (states.COMPLETE, states.PRUNED) for trial in trials)
        under_way = sum(trial.state == states.RUNNING for trial in trials)
        if most is not None and done >= most:
            return
        if most is not None and done + under_way >= most:
            if not told:
                say("waiting for the last trials of other processes")
            told = True
            time.sleep(POLL_S)
            continue
        taken.clear()
        try:
            study.optimize(objective, n_trials=1)
        except (
            ValueError,
            AssertionError,
            library.exceptions.UpdateFinishedTrialError,
        ):  # all that Optuna says of a lost one
            if own_faults or not taken or _state(study, taken[0]) != states.FAIL:
                raise
            say(
                f"trial {taken[0]}: given out again while it ran here, as its heartbeats were missing; it counts there alone"
            )


def _state(study: optuna.Study, number: int) -> Any:
    return study.get_trials(deepcopy=False)[number].state


def take_back(study: optuna.Study, say: Callable[[str], None]) -> None:
    """Give out again the trials of processes that died: of this host at once, of others when their heartbeat is missing."""
    optuna = import_optuna()
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        if _is_dead(trial.user_attrs.get(WORKER)) or _is_nobodys(trial):
            with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another process was first
                study.tell(trial.number, state=states.FAIL)
                _retry(study, trial)
                say(f"trial {trial.number}: its process died; it is given out again")
    optuna.storages.fail_stale_trials(study)


def _retry(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Give a trial out again, without the name of who had it: who takes it would be held for dead until it has its own."""
    trial = copy.deepcopy(trial)
    trial.set_user_attr(WORKER, None)
    import_optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=MOST_TRIES)(study, trial)


def _storage(url: str, heartbeat_s: int) -> Any:
    optuna = import_optuna()
    if url.startswith(JOURNAL):
        file = Path(url.removeprefix(JOURNAL))
        file.parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    if "://" not in url:
        raise UserError(
            f"--join {url}: an address such as sqlite:///study.db, journal:///shared/study.log or postgresql://..."
        )
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(
        url,
        engine_kwargs=options,
        heartbeat_interval=heartbeat_s,
        grace_period=max(GRACE * heartbeat_s, LEAST_GRACE_S),
        heartbeat_stale_trial_callback=_retry,
    )


def _sampler(spec: SearchSpec, seed: int | None) -> Any:
    samplers = import_optuna().samplers
    if spec.sampler == "nsga2":
        return samplers.NSGAIISampler(population_size=2 * SAMPLED, seed=seed)
    return samplers.TPESampler(n_startup_trials=SAMPLED, multivariate=True, group=True, seed=seed)


def _pruner(spec: SearchSpec) -> Any:
    pruners = import_optuna().pruners
    if spec.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=3)
    return pruners.SuccessiveHalvingPruner() if spec.pruner == "halving" else pruners.NopPruner()


def _worker() -> str:
    """Name this process so that no later one on this host is taken for it."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def _is_nobodys(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial was begun and never named: its process died before that, and before a first heartbeat."""
    begun: datetime | None = trial.datetime_start
    if trial.user_attrs.get(WORKER) is not None or begun is None:
        return False
    return datetime.now() - begun > timedelta(seconds=LEAST_GRACE_S)  # Optuna's times are local ones, without a zone


def _is_dead(worker: object) -> bool:
    """Whether a worker of this host is gone; what is no worker's name is another's affair."""
    named = re.fullmatch(r"(\S+) ([0-9]{1,9}) (\S+)", worker) if isinstance(worker, str) else None
    return named is not None and named[1] == socket.gethostname() and _started(int(named[2])) != named[3]


def _started(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; ``gone`` where it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *rest = stat.rpartition(")")[2].split()
        return "gone" if state in "ZX" else rest[18]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except OSError:
        return "there"
    return "there" if not Path("/proc/self/stat").exists() else "gone"


def find_study(url: str, name: str) -> optuna.Study:
    """Open a study that is there.

    Raises:
        UserError: there is none.
    """
    library = import_optuna()
    file = url.removeprefix("sqlite:///")
    if url.startswith("sqlite:///") and not Path(file).is_file():
        raise UserError(f"no search was kept in {file}; name its storage with --join, such as sqlite:///FOLDER/study.db")
    with storage_errors(url):
        storage = _storage(url, HEARTBEAT_S)
        known = [study.study_name for study in storage.get_all_studies()]
        if name not in known:
            raise UserError(f"{url}: no search of {name}; there are: {one_line(', '.join(known)) or 'none'}")
        found: optuna.Study = library.load_study(study_name=name, storage=storage)
        return found
