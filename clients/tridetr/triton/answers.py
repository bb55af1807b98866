"""Convert the server's answers: detections to arrays, and gRPC errors to exceptions that callers can act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from tridetr.contract import OUTPUTS
from tridetr.errors import (
    DeviceRegionRefused,
    InferenceFailed,
    ModelUnavailable,
    RegionNotRegistered,
    TritonError,
)

_DTYPES = {"boxes": np.float32, "scores": np.float32, "classes": np.int32}
_OVERFLOW = "Remedy: set model.precision: fp32, or use another model"
_REMAKE = "Remedy: make the model again with `tridetr models fuse`, or use another one"
_CONFIDENT = 0.2  # score
_LARGEST_SHARE = 1.5  # coordinate of a box that is a share of the picture, with tolerance
# The connection or the server failed.
_BROKEN = frozenset({
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
})  # fmt: skip
# Also: the model is not loaded (yet).
_GONE = _BROKEN | {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The detections of one frame, best first; rows with score 0 are padding. The arrays are read-only."""

    boxes: npt.NDArray[np.float32]  # [K, 4] x1 y1 x2 y2 in source pixels
    scores: npt.NDArray[np.float32]  # [K]
    classes: npt.NDArray[np.int32]  # [K] the model's class ids


def parse_prediction(response: Any) -> Prediction:
    """Parse an inference response of batch 1 into arrays, which are views of the message's bytes.

    Raises:
        InferenceFailed: an output is missing, its size does not match its shape, a score is not finite, or most of the
            boxes with a score above 0 are not boxes (see `are_corners`).
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for spec, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        dtype = _DTYPES.get(spec.name)
        shape = tuple(spec.shape)[1:]
        wrong = f"the server's answer is invalid: output {spec.name} {list(spec.shape)} has {len(raw)} bytes"
        if dtype is None or min(shape, default=0) < 0:
            raise InferenceFailed(wrong)
        try:
            arrays[spec.name] = np.frombuffer(raw, dtype).reshape(shape)
        except ValueError as error:  # the size does not match the shape, or the shape is invalid
            raise InferenceFailed(wrong) from error
    missing = [name for name in OUTPUTS if name not in arrays]
    if missing:
        raise InferenceFailed(f"the server's answer is invalid: {', '.join(missing)} missing")
    shapes = {name: arrays[name].shape for name in OUTPUTS}
    count = len(arrays["scores"]) if arrays["scores"].ndim == 1 else -1
    if shapes != {"boxes": (count, 4), "scores": (count,), "classes": (count,)}:
        raise InferenceFailed(
            f"the server's answer is invalid: the shapes of its outputs do not match: {shapes}"
        )
    found = Prediction(arrays["boxes"], arrays["scores"], arrays["classes"])
    check_content(found)
    return found


def are_corners(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return which boxes [K, 4] are finite and have their corners in order, apart from rounding.

    >>> are_corners(np.float32([[1, 2, 3, 4], [300, 200, 299.5, 290], [320, 245, 40, 90], [0, 0, 1, np.nan]]))
    array([ True,  True, False, False])
    """
    ordered = boxes[:, :2] <= boxes[:, 2:] + 1  # rounding
    sound: npt.NDArray[np.bool_] = np.all(np.hstack([ordered, np.isfinite(boxes)]), axis=1)
    return sound


def check_content(found: Prediction) -> None:
    """Check that the content of the picture is known: a broken model would look like an empty picture.

    Raises:
        InferenceFailed: a score is not finite, most of the boxes with a score above 0 are not boxes, or all boxes with
            a considerable score are as small as a pixel.
    """
    if not np.isfinite(found.scores).all():
        raise InferenceFailed(
            "the model's answer contains scores that are NaN or infinite, so the content of the picture is unknown. "
            f"{_OVERFLOW}"
        )
    boxes = found.boxes[found.scores > 0]
    wrong = boxes[~are_corners(boxes)]
    if 2 * len(wrong) <= len(boxes):
        confident = found.boxes[found.scores >= _CONFIDENT]
        if len(confident) and np.abs(confident).max() <= _LARGEST_SHARE:
            raise InferenceFailed(
                "all boxes in the model's answer are between 0 and 1, so they are shares of the picture, not pixels: "
                f"no zone and no min_area would match. {_REMAKE}"
            )
        return
    if not np.isfinite(wrong).all():
        raise InferenceFailed(
            "most boxes in the model's answer contain NaN or infinite values, so the content of the picture is "
            f"unknown. {_OVERFLOW}"
        )
    raise InferenceFailed(
        "most boxes in the model's answer have a right or lower edge that comes before the left or upper one, so they "
        f"are not x1 y1 x2 y2 in pixels. {_REMAKE}"
    )


class AlreadyRegisteredError(TritonError):
    """A region of that name is already registered, possibly with the pages of an earlier file."""


def translate(method: str, error: grpc.aio.AioRpcError) -> TritonError:
    """Return the exception to raise for a call of a gRPC method that failed."""
    code, details = error.code(), error.details() or ""
    text = f"Triton {method}: {details or code.name}"
    lower = details.lower()
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return AlreadyRegisteredError(text)
    if "protocol is restricted" in lower:
        return TritonError(
            f"{text}. Remedy: set triton.secret_file to the file that contains the server's key."
        )
    if method == "CudaSharedMemoryRegister" and code not in _BROKEN:
        return DeviceRegionRefused(text)
    if "shared memory region" in lower and ("unable to find" in lower or "not found" in lower):
        return RegionNotRegistered(text)
    if code in _GONE or "not healthy" in lower:
        return ModelUnavailable(text)
    return InferenceFailed(text)
