"""What is before and after a model, as files for a device, checked against the data source; and its raw samples."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from compress.data import Samples, Splits
from compress.tasks import Task
from deploy.bundle.raw_samples import read
from deploy.engines.inputs import by_name, join
from deploy.processing import tokens, whole
from deploy.processing.detection import decode
from deploy.processing.detection.decode import Decoding
from deploy.processing.raws import RAW_FILE, Raw, pack
from deploy.worker.client import RemoteWorker
from profiles.errors import UserError, one_line

RAWS = 16
FILES = (whole.BEFORE_FILE, whole.AFTER_FILE, tokens.FILE)


@final
@dataclass(frozen=True, kw_only=True)
class WholePath:
    """Files that describe the processing around a model, and raw samples: the first of a split.

    Attributes:
        files: by their names in a bundle; without preprocessing.json in a bundle, which says more there.
        why_not: why there is none; then all else is empty.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    raws: Sequence[Raw] = ()
    why_not: str = ""

    def write(self, folder: Path) -> None:
        """Write the files into an empty folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        np.savez(folder / RAW_FILE, **pack(self.raws))  # type: ignore[arg-type]  # numpy's stub

    def describe_to(self, worker: RemoteWorker) -> None:
        """Send the files and raw samples to a worker whose engine is open.

        Raises:
            UserError: it does not know the processing, or misses a package.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self.write(Path(scratch))
            worker.describe(Path(scratch))

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """Return what preprocessing.json holds; empty where there is none."""
        return json.loads(self.files[whole.BEFORE_FILE]) if self.files else {}

    def inputs(self) -> Any:
        """Make the inputs of all raw samples here."""
        with tempfile.TemporaryDirectory() as scratch:
            self.write(Path(scratch))
            processing = whole.load(Path(scratch))
            return join([processing.prepare(raw).inputs for raw in self.raws])

    def key(self) -> str:
        """Hash the files and the raw samples."""
        digest = hashlib.sha256(repr(sorted(self.files.items())).encode())
        digest.update(repr([(type(raw.value).__name__, _bytes_of(raw.value), raw.box) for raw in self.raws]).encode())
        return digest.hexdigest()


def whole_path(splits: Splits, task: Task, samples: Samples, decoding: Decoding | None) -> WholePath:
    """Describe what is around a model, and check that a device makes the inputs of ``samples`` that the source makes."""
    if not whole.is_described(splits.preprocessing):
        return WholePath(why_not="the data source does not say which preprocessing of deploy.processing makes its inputs")
    after: dict[str, Any] = {"schema": whole.SCHEMA, **task.postprocessing(splits), "classes": list(splits.classes)}
    files = {whole.BEFORE_FILE: _json(splits.preprocessing), whole.AFTER_FILE: _json(after), **splits.files}
    if decoding is not None:
        files |= decode.files(decoding)
    raws = [samples.raw(index) for index in range(min(RAWS, len(samples)))]
    told = [raw for raw in raws if raw is not None]
    if len(told) < len(raws) or not told:
        return WholePath(why_not="the data source does not give its samples as an application has them")
    made = WholePath(files=files, raws=told)
    why_not = _difference(made, samples, float(splits.preprocessing.get("tolerance", 0.0)))
    return WholePath(why_not=why_not) if why_not else made


def taking_bytes(path: WholePath) -> WholePath:
    """Return a path whose model normalises itself: its inputs are bytes (samples, height, width, channels)."""
    return replace(path, files={**path.files, whole.BEFORE_FILE: _json({**path.preprocessing, "bytes": True})})


def kept_path(bundle: Path) -> WholePath | None:
    """Read what is around the model of a bundle before anything was folded in, and raw samples; None where it has none."""
    try:
        raws = read(bundle)
        names = [name for name in (*FILES, decode.FILE, decode.PRIORS) if (bundle / name).is_file()]
        path = WholePath(files={name: (bundle / name).read_bytes() for name in names}, raws=raws)
        about = {key: value for key, value in path.preprocessing.items() if key != "bytes"}
        return replace(path, files={**path.files, whole.BEFORE_FILE: _json(about)})
    except (OSError, ValueError, KeyError):
        return None


def _difference(made: WholePath, samples: Samples, tolerance: float) -> str:
    """Say how the device's preprocessing differs from the source's on the raw samples; empty where it does not."""
    with tempfile.TemporaryDirectory() as scratch:
        made.write(Path(scratch))
        try:
            processing = whole.load(Path(scratch))
            for index, raw in enumerate(made.raws):
                ours, theirs = (by_name(each) for each in (processing.prepare(raw).inputs, _inputs(samples, index)))
                if list(ours) != list(theirs) or any(not _is_same(ours[name], theirs[name], tolerance) for name in ours):
                    return f"the device's preprocessing makes other inputs of sample {index} than the data source"
        except UserError as error:
            return one_line(str(error), 300)
    return ""


def _inputs(samples: Samples, index: int) -> Any:
    return samples.load(np.array([index])).inputs


def _is_same(ours: npt.NDArray[Any], theirs: npt.NDArray[Any], tolerance: float) -> bool:
    if ours.shape != theirs.shape:
        return False
    return np.array_equal(ours, theirs) if not tolerance else bool(np.abs(ours - theirs).max(initial=0) <= tolerance)


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(data), indent=1, sort_keys=True, default=dict).encode()


def _bytes_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, Mapping):
        return repr([(name, _bytes_of(each)) for name, each in value.items()])
    return hashlib.sha256(value if isinstance(value, bytes) else repr(value).encode()).hexdigest()
