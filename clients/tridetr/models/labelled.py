"""Load labelled pictures from a data set in YOLO or COCO layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from tridetr.contract import COCO_91
from tridetr.errors import ModelError
from tridetr.files import read_text
from tridetr.models.picture_files import find_pictures


@dataclass(frozen=True, slots=True)
class Label:
    """One labelled object: its class name and its box (x, y, width, height) in pixels."""

    name: str
    xywh: tuple[float, float, float, float]
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture file and the objects in it."""

    path: Path
    labels: tuple[Label, ...]


def load_labelled(folder: Path, limit: int | None = None) -> list[LabelledPicture]:
    """Load a labelled data set.

    YOLO layout: ``images/**/x.jpg`` and ``labels/**/x.txt`` (``class cx cy w h``, normalised); class names from
    ``data.yaml`` or ``dataset.yaml``, otherwise COCO's 80 classes. COCO layout: one ``*.json`` with instances in the
    folder or in ``annotations/``, such as Roboflow's ``_annotations.coco.json``.

    Args:
        folder: the data set.
        limit: number of pictures to load, from the beginning; None = all.

    Raises:
        ModelError: the folder has neither layout or no labels, or a label cannot be read.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder: expected a data set in YOLO or COCO layout")
    candidates = [*sorted(folder.glob("*.json")), *sorted((folder / "annotations").glob("*.json"))]
    if (folder / "labels").is_dir():
        pictures = _load_yolo(folder)
    elif candidates:
        pictures = _load_coco(folder, _instances(candidates))
    else:
        raise ModelError(
            f"{folder} contains neither images/ and labels/ (YOLO) nor a *.json with COCO instances"
        )
    if not any(picture.labels for picture in pictures):
        raise ModelError(f"{folder} contains pictures but no labels")
    return pictures[:limit]


def _load_yolo(folder: Path) -> list[LabelledPicture]:
    names = _yolo_names(folder)
    images = folder / "images" if (folder / "images").is_dir() else folder
    pictures = []
    for path in find_pictures(images):
        text = folder / "labels" / path.relative_to(images).with_suffix(".txt")
        lines = read_text(text).splitlines() if text.is_file() else []
        with Image.open(path) as image:
            size = image.size
        labels = [_yolo_label(line, names, size, text) for line in lines if line.strip()]
        pictures.append(LabelledPicture(path, tuple(labels)))
    return pictures


def _yolo_names(folder: Path) -> list[str]:
    for file in ("data.yaml", "dataset.yaml"):
        if (folder / file).is_file():
            names = (yaml.safe_load(read_text(folder / file)) or {}).get("names")
            if isinstance(names, dict):
                names = [names[key] for key in sorted(names)]
            if not isinstance(names, list):
                raise ModelError(f"{folder / file} has no list or mapping `names` of class names")
            return [str(name) for name in names]
    return list(COCO_91)


def _yolo_label(line: str, names: list[str], size: tuple[int, int], file: Path) -> Label:
    try:
        number, *rest = line.split()
        cx, cy, w, h = (float(value) for value in rest[:4])
        name = names[int(number)]
    except (ValueError, IndexError) as error:
        raise ModelError(
            f"{file}: {line!r} is not `class cx cy w h` with one of {len(names)} classes"
        ) from error
    width, height = size
    return Label(name, ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height))


def _instances(candidates: list[Path]) -> Path:
    named = [path for path in candidates if "instances" in path.name or "_annotations" in path.name]
    return (named or candidates)[0]


def _load_coco(folder: Path, file: Path) -> list[LabelledPicture]:
    try:
        data = json.loads(read_text(file))
        names = {category["id"]: str(category["name"]) for category in data["categories"]}
        labels: dict[int, list[Label]] = {image["id"]: [] for image in data["images"]}
        for item in data["annotations"]:
            x, y, w, h = (float(value) for value in item["bbox"])
            labels[item["image_id"]].append(
                Label(names[item["category_id"]], (x, y, w, h), bool(item.get("iscrowd", 0)))
            )
        files = {image["id"]: str(image["file_name"]) for image in data["images"]}
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as COCO instances: {error!r}") from error
    by_name = {path.name: path for path in find_pictures(folder)}
    pictures = []
    for number, name in files.items():
        path = by_name.get(Path(name).name)
        if path is None:
            raise ModelError(f"{file} refers to {name}, which does not exist below {folder}")
        pictures.append(LabelledPicture(path, tuple(labels[number])))
    return pictures
