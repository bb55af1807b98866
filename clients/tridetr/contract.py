"""The model contract: the inputs and outputs that every model has on every engine, and COCO's class names.

| tensor    | type  | shape         | meaning                                                   |
|-----------|-------|---------------|-----------------------------------------------------------|
| `frame`   | UINT8 | [B, 3H/2, W]  | I420 frame as stored in the ring slot; H, W even          |
| `boxes`   | FP32  | [B, K, 4]     | x1 y1 x2 y2 in source pixels                              |
| `scores`  | FP32  | [B, K]        | best first, 0 where there is no detection                 |
| `classes` | INT32 | [B, K]        | the model's own class ids                                 |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tridetr.errors import ModelError

VERSION: Final = "1"  # contract version that `tridetr models fuse` writes to a model's metadata
INPUT: Final = "frame"
OUTPUTS: Final = ("boxes", "scores", "classes")
_WANTED: Final = {
    INPUT: ("UINT8", ("B", "3H/2", "W")),
    "boxes": ("FP32", ("B", "K", "4")),
    "scores": ("FP32", ("B", "K")),
    "classes": ("INT32", ("B", "K")),
}


class TensorSpec(Protocol):
    """One input or output, as described by Triton's metadata or by the ONNX reader (`Tensor`)."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, Triton type name and shape (batch first, -1 = any) of an input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def check_version(version: str) -> None:
    """Check the contract version of a model.

    Raises:
        ModelError: the version differs from `VERSION`; the message names both.
    """
    if version != VERSION:
        raise ModelError(
            f"the model was made for contract version {version}, this tridetr supports version {VERSION}: fuse the "
            "export again with this tridetr"
        )


def check_contract(model: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
    """Check that a model conforms to the contract.

    Raises:
        ModelError: it does not; the message lists every tensor that differs, with the expected and the actual type and
            shape.
    """
    found = {spec.name: spec for spec in (*inputs, *outputs)}
    faults = [
        f"{name}: expected {datatype} [{', '.join(dims)}], "
        f"found {_show(found[name]) if name in found else 'nothing'}"
        for name, (datatype, dims) in _WANTED.items()
        if name not in found or not _fits(found[name])
    ]
    faults += [
        f"{name}: not part of the contract, found {_show(spec)}"
        for name, spec in found.items()
        if name not in _WANTED
    ]
    if not faults:
        lengths = {found[name].shape[1] for name in OUTPUTS} - {-1}
        if len(lengths) > 1:
            shapes = ", ".join(f"{name} {_show(found[name])}" for name in OUTPUTS)
            faults = [f"outputs: expected the same K (detections) for all, found {shapes}"]
    if faults:
        raise ModelError(
            f"model {model!r} does not conform to the model contract:\n  "
            + "\n  ".join(faults)
            + "\nRemedy: wrap the exported RF-DETR with `tridetr models fuse IN.onnx OUT.onnx`."
        )


def _fits(spec: TensorSpec) -> bool:
    datatype, dims = _WANTED[spec.name]
    shape = tuple(spec.shape)
    if spec.datatype != datatype or len(shape) != len(dims):
        return False
    if spec.name == INPUT:
        return shape[1] == -1 or shape[1] % 3 == 0
    return spec.name != "boxes" or shape[2] in (4, -1)


def _show(spec: TensorSpec) -> str:
    return f"{spec.datatype} [{', '.join('any' if n == -1 else str(n) for n in spec.shape)}]"


# An empty name marks an id that COCO does not use.
_NAMES = """\
person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,
stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,
backpack,umbrella,,,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,
baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,,wine glass,cup,fork,
knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,
couch,potted plant,bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,cell phone,
microwave,oven,toaster,sink,refrigerator,,book,clock,vase,scissors,teddy bear,hair drier,
toothbrush\
""".replace("\n", "").split(",")

COCO_91: dict[str, int] = {name: number for number, name in enumerate(_NAMES, start=1) if name}
"""Class name -> COCO category id (80 classes, ids 1..90)."""
