"""Folders of recordings: a folder for each class, names that say the class, or a table of tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.audio_files import LabelledSound, find_sounds, hold_out
from compress.data.audio_samples import AudioSamples, Recordings
from compress.data.audio_transforms import AudioPreprocessing
from compress.data.base import Splits, assign_splits
from compress.data.box_samples import first_faults
from compress.data.options import Positive, Seed, checked_options
from compress.data.recordings import SUFFIXES, Head, is_sound, read_heads
from deploy.processing.log_mel import LogMel
from profiles.errors import UserError

NOTHING: Mapping[str, Mapping[str, Sequence[str]]] = {}


@checked_options("data: audio")
def audio(
    *,
    path: str | Path,
    rate: int = 16000,
    seconds: float = 1.0,
    names: str = "",
    held_out: Mapping[str, Mapping[str, Sequence[str]]] = NOTHING,
    by: str = "",
    table: str = "",
    file_column: str = "file",
    label_column: str = "label",
    separator: str = "",
    classes: Sequence[str] = (),
    log_mel: Mapping[str, float] | None = None,
    resample: bool = True,
    least_seconds: Positive = 0.05,
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    shift_s: float = 0.1,
    noise_db: float = 20.0,
    noise_path: str = "",
    gain_db: float = 6.0,
    time_mask_s: float = 0.1,
    frequency_mask: float = 0.15,
) -> Splits:
    """Read recordings as float32 (1, samples) of full scale 1, at one rate and length.

    ``path`` holds ``train``, ``val`` and ``test`` with a folder for each class, or the classes' folders; or any folders,
    where ``names`` or ``table`` tell the classes. ``validation_list.txt`` and ``testing_list.txt``, as Speech Commands
    has them, are followed. What is missing is held out as ``compress.data.base.assign_splits`` says. Several channels
    are averaged. The other options are those of ``compress.data.audio_transforms.AudioPreprocessing``.

    Args:
        names: what a file's name says, such as ``{label}_{speaker}_{take}`` or ``{speaker}_nohash_{take}``; with ``label``
            in place of the folder.
        held_out: what goes to validation and test, by fields of ``names``: ``{ test = { speaker = ["s6"] } }``.
        by: a field of ``names``, ``speaker`` mostly, of which no value is in two splits.
        table: a CSV file under ``path`` with a row a recording.
        file_column, label_column: its columns; a label is the class, or with ``separator`` any number of tags.
        separator: between tags; targets are then (samples, classes) of 0 and 1, for the task ``tagging``.
        classes: names in the order of the labels; without, all that occur in train, in order.
        log_mel: fields of ``deploy.processing.log_mel.LogMel`` but for the rate: spectra (1, mels, frames) in place of
            recordings, for a model that has no front end.
        resample: whether recordings of another rate are brought to ``rate``; an error otherwise.
        least_seconds: a shorter recording is an error.
        noise_path: a folder of noise that is added, in place of white noise.

    Raises:
        UserError: recordings, names or tables that do not fit; all of them.

    Example: ``{ use = "audio", path = "digits", rate = 8000, names = "{label}_{speaker}_{take}", by = "speaker" }``.
    """
    view = AudioPreprocessing(
        rate=rate,
        seconds=seconds,
        log_mel=None if log_mel is None else _log_mel(rate, log_mel),
        shift_s=shift_s,
        noise_db=noise_db,
        gain_db=gain_db,
        time_mask_s=time_mask_s,
        frequency_mask=frequency_mask,
    )
    root = Path(path).expanduser()
    faults: list[str] = []
    sounds = find_sounds(root, names, table, (file_column, label_column, separator), faults)
    if not faults:
        hold_out(sounds, names, held_out, by, (validation, test), seed, faults)
    known = tuple(classes) or tuple(sorted({label for each in sounds if each.part == "train" for label in each.labels}))
    faults += strange_labels(sounds, known)
    heads = read_heads([root / each.file for each in sounds])
    notes = _notes(root, sounds, heads, view, least_seconds, resample, faults)
    noises = _noises(noise_path, faults)
    if faults:
        raise UserError(*first_faults(faults))
    return _splits(root, sounds, heads, view, known, noises, bool(separator), notes, (validation, test), calibration, seed)


def _log_mel(rate: int, settings: Mapping[str, Any]) -> LogMel:
    known = [each.name for each in fields(LogMel) if each.name != "rate"]
    if strange := sorted(set(settings) - set(known)):
        raise UserError(f"data: log_mel has {', '.join(known)}; given: {', '.join(strange)}")
    asked: dict[str, Any] = {name: int(value) if name == "mels" else value for name, value in settings.items()}
    return LogMel(rate=rate, **asked)


def strange_labels(sounds: Sequence[LabelledSound], classes: Sequence[str]) -> list[str]:
    strange = Counter(label for each in sounds for label in each.labels if label not in classes)
    known = ", ".join(classes[:12])
    return [f"data: {count} recordings of {label!r}, which is no class; known: {known}" for label, count in strange.items()]


def _notes(
    root: Path,
    sounds: Sequence[LabelledSound],
    heads: Sequence[Head | str],
    view: AudioPreprocessing,
    least_seconds: float,
    resample: bool,
    faults: list[str],
) -> list[str]:
    """Note what is done to recordings of other rates, channels and lengths; what cannot be used is a fault."""
    rates: Counter[int] = Counter()
    several = shorter = longer = 0
    for sound, head in zip(sounds, heads, strict=True):
        if isinstance(head, str):
            faults.append(head)
            continue
        if head.seconds < least_seconds:
            words = f"lasts {head.seconds:.3f} s, less than least_seconds = {least_seconds:g}"
            faults.append(f"data: {root / sound.file} {words}; remove it, or lower that")
        if head.rate != view.rate and not resample:
            words = f"has {head.rate} samples a second, and rate is {view.rate}"
            faults.append(f"data: {root / sound.file} {words}; set resample = true, or rate")
        rates[head.rate] += head.rate != view.rate
        several += head.channels > 1
        longer += head.seconds > view.seconds
        shorter += head.seconds < view.seconds
    notes = [f"{count} recordings of {hz} Hz are brought to {view.rate} Hz" for hz, count in sorted(rates.items()) if count]
    notes += [f"{several} recordings have several channels, which are averaged"] if several else []
    notes += [f"{longer} recordings are longer than {view.seconds:g} s; a part is taken"] if longer else []
    notes += [f"{shorter} recordings are shorter than {view.seconds:g} s; silence is put around"] if shorter else []
    return notes


def _noises(noise_path: str, faults: list[str]) -> list[Path]:
    if not noise_path:
        return []
    folder = Path(noise_path).expanduser()
    found = sorted(path for path in folder.glob("*") if is_sound(path.name))
    if not found:
        faults.append(f"data: noise_path {folder} holds no recording; known kinds: {', '.join(SUFFIXES)}")
    return found


def _splits(
    root: Path,
    sounds: Sequence[LabelledSound],
    heads: Sequence[Head | str],
    view: AudioPreprocessing,
    classes: tuple[str, ...],
    noises: Sequence[Path],
    tagged: bool,
    notes: Sequence[str],
    shares: tuple[float, float],
    calibration: int,
    seed: int,
) -> Splits:
    parts: dict[str, list[int]] = {}
    for number, each in enumerate(sounds):
        parts.setdefault(each.part, []).append(number)
    counts = {part: len(numbers) for part, numbers in parts.items()}
    chosen = assign_splits(counts, validation=shares[0], test=shares[1], calibration=calibration, seed=seed)
    held = Recordings(
        root=root,
        names=[each.file for each in sounds],
        rates=[head.rate for head in heads if isinstance(head, Head)],
        targets=_targets(sounds, classes, tagged),
        noises=noises,
    )
    samples: dict[str, Any] = {
        name: AudioSamples(held, np.array(parts[part])[indices], view if name == "train" else view.plain(), classes)
        for name, (part, indices) in chosen.items()
    }
    return Splits(**samples, classes=classes, preprocessing=view.as_json(), notes=tuple(notes))


def _targets(sounds: Sequence[LabelledSound], classes: Sequence[str], tagged: bool) -> npt.NDArray[Any]:
    places = {name: number for number, name in enumerate(classes)}
    if not tagged:
        return np.array([places[each.labels[0]] for each in sounds], np.int64)
    targets = np.zeros((len(sounds), len(classes)), np.float32)
    for row, each in zip(targets, sounds, strict=True):
        row[[places[label] for label in each.labels]] = 1
    return targets
