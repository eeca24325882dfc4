"""Pascal VOC: images, an XML file of boxes for each, and lists of the images of each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final
from xml.etree import ElementTree

from compress.data.base import Splits
from compress.data.box_samples import PARTS, AnnotatedImage, as_boxes, box_splits, first_faults
from compress.data.box_transforms import make_box_preprocessing
from compress.data.decoding import read_names
from compress.data.options import Seed, Sides, checked_options
from profiles.errors import UserError, one_line, unknown

CORNERS = ("xmin", "ymin", "xmax", "ymax")

MOST_PIXELS = 2**31


@checked_options("data: voc")
def voc(
    *,
    path: str | Path,
    size: Sides,
    classes: Sequence[str] = (),
    resize: str = "plain",
    antialias: bool = True,
    difficult: bool = False,
    validation: float = 0.1,
    test: float = 0.1,
    calibration: int = 512,
    seed: Seed = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    order: str = "rgb",
    scale: float = 1.0,
    mirror: bool = True,
    upside_down: bool = False,
    zoom: float = 0.25,
    move: float = 0.1,
    colour: float = 0.1,
) -> Splits:
    """Read images with boxes in the folders of Pascal VOC (Everingham et al. 2010), as float32 (channels, height, width).

    ``path`` holds ``JPEGImages``, ``Annotations`` and ``ImageSets/Main`` with ``train.txt``, ``val.txt`` and
    ``test.txt``, of which the first is needed; what is missing is held out as ``compress.data.base.assign_splits`` says.
    Corners are counted from 1 and inclusive, as VOC has them. The other options are those of
    ``compress.data.box_transforms.BoxPreprocessing``.

    Args:
        size: height and width of the input, or one number for both.
        classes: names in the order of the labels; without, those of the training annotations in alphabetical order.
        difficult: whether boxes marked difficult are kept; VOC leaves them out of its metric.

    Raises:
        UserError: what is missing, not XML, of an unknown class or not possible; all of it.
    """
    view = make_box_preprocessing(
        size=size,
        mean=mean,
        deviation=deviation,
        order=order,
        scale=scale,
        resize=resize,
        antialias=antialias,
        mirror=mirror,
        upside_down=upside_down,
        zoom=zoom,
        move=move,
        colour=colour,
    )
    reader = _Reader(Path(path).expanduser(), difficult)
    names = reader.parts()
    read = {part: [reader.read(name) for name in listed] for part, listed in names.items()}
    known = tuple(classes) or tuple(sorted({kind for annotation in read["train"] for kind, _ in annotation.objects}))
    drawn = {part: [reader.drawn(annotation, known) for annotation in each] for part, each in read.items()}
    if reader.faults:
        raise UserError(*first_faults(reader.faults))
    notes = [f"{reader.left_out} boxes marked difficult were left out"] if reader.left_out else []
    return box_splits(
        reader.root,
        drawn,
        view,
        classes=known,
        notes=notes,
        validation=validation,
        test=test,
        calibration=calibration,
        seed=seed,
    )


@final
class _Annotation:
    """A picture's file, its size (width, height), and its objects as (class, corners)."""

    def __init__(self, file: str, size: tuple[int, int], objects: list[tuple[str, list[float]]]) -> None:
        self.file, self.size, self.objects = file, size, objects


@final
class _Reader:
    """Reads a folder, and collects what is wrong with it."""

    def __init__(self, root: Path, difficult: bool) -> None:
        self.root, self._difficult = root, difficult
        self.faults: list[str] = []
        self.left_out = 0

    def parts(self) -> dict[str, list[str]]:
        """Names of the pictures of each part."""
        lists = self.root / "ImageSets" / "Main"
        missing = [f for f in (self.root / "JPEGImages", self.root / "Annotations", lists / "train.txt") if not f.exists()]
        if missing:
            names = ", ".join(str(each.relative_to(self.root)) for each in missing)
            raise UserError(f"data: {self.root} has no {names}; give a folder laid out as Pascal VOC is")
        files = {part: lists / f"{stem}.txt" for stem, part in PARTS.items() if (lists / f"{stem}.txt").is_file()}
        return {part: read_names(file) for part, file in files.items()}

    def read(self, name: str) -> _Annotation:
        """The annotation of a picture; what is wrong with it is kept for later."""
        path = self.root / "Annotations" / f"{name}.xml"
        nothing = _Annotation(f"JPEGImages/{name}.jpg", (1, 1), [])
        try:
            tree = ElementTree.parse(path).getroot()
        except FileNotFoundError:
            self.faults.append(f"data: {path} is not there, and {name} is in the lists of ImageSets/Main")
            return nothing
        except (ElementTree.ParseError, ValueError, LookupError, OSError, RecursionError) as error:
            self.faults.append(f"data: {path} is not XML ({one_line(str(error), 200)})")
            return nothing
        try:
            width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
            if not 0 < min(width, height) <= max(width, height) < MOST_PIXELS:
                raise ValueError("<size> is no size in pixels")
            return _Annotation(self._file(name, tree), (width, height), list(self._objects(tree)))
        except ValueError as error:
            self.faults.append(f"data: {path}: {one_line(str(error), 200)}")
            return nothing

    def drawn(self, annotation: _Annotation, classes: Sequence[str]) -> AnnotatedImage:
        """An annotation with its classes as labels."""
        strange = {kind for kind, _ in annotation.objects if kind not in classes}
        self.faults += [unknown("class", kind, classes, f"data: {annotation.file}") for kind in sorted(strange)]
        rows = [[classes.index(kind), *corners] for kind, corners in annotation.objects if kind not in strange]
        return AnnotatedImage(file=annotation.file, size=annotation.size, boxes=as_boxes(rows))

    def _file(self, name: str, tree: ElementTree.Element) -> str:
        """The picture's file; what the annotation calls it where it is no .jpg of that name."""
        usual = f"JPEGImages/{name}.jpg"
        stated = f"JPEGImages/{Path(tree.findtext('filename') or '').name}"
        return usual if (self.root / usual).is_file() or not (self.root / stated).is_file() else stated

    def _objects(self, tree: ElementTree.Element) -> Iterator[tuple[str, list[float]]]:
        for each in tree.iter("object"):
            if each.findtext("difficult") == "1" and not self._difficult:
                self.left_out += 1
                continue
            x1, y1, x2, y2 = (float(_text(each, f"bndbox/{corner}")) for corner in CORNERS)
            if not all(abs(value) < MOST_PIXELS for value in (x1, y1, x2, y2)):
                raise ValueError("<bndbox> has a corner that is no place in pixels")
            yield _text(each, "name").strip(), [x1 - 1, y1 - 1, x2, y2]


def _text(tree: ElementTree.Element, path: str) -> str:
    """The text at ``path``; ``ValueError`` when there is none."""
    text = tree.findtext(path)
    if not text:
        raise ValueError(f"<{tree.tag}> has no <{path.replace('/', '><')}>")
    return text
