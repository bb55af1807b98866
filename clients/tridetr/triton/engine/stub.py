"""Request handling that our Python-based backends share: input tensors in, responses out."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tridetr.contract import INPUT, OUTPUTS
from tridetr.errors import TridetrError
from tridetr.triton.engine.dlpack import Frames, frames_of
from tridetr.triton.engine.session import check_shape

_set_destructor = ctypes.pythonapi.PyCapsule_SetDestructor
_set_destructor.argtypes = (ctypes.py_object, ctypes.c_void_p)


# Triton's logger records the calling file, and aborts the process if the path of that contains non-ASCII characters.
_call = eval(compile("lambda write, text: write(text)", "model.py", "eval"))  # noqa: S307


def log(write: Callable[[str], None], text: str) -> None:
    """Log a line with one of the functions of `pb_utils.Logger`."""
    _call(write, text.encode("ascii", "backslashreplace").decode())


def parameters_of(args: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters in the model configuration that Triton passes to `initialize`."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return {key: value["string_value"] for key, value in parameters.items()}


def answer(triton: Any, request: Any, infer: Callable[[Any], Sequence[Any]]) -> Any:
    """Answer one request; any error goes into its response.

    Args:
        triton: `triton_python_backend_utils`, which exists only in the stub.
        request: Triton's request.
        infer: Function from the input tensor to the arrays of the contract's outputs.
    """
    try:
        results = infer(triton.get_input_tensor_by_name(request, INPUT))
        tensors = [_tensor(triton, *named) for named in zip(OUTPUTS, results, strict=True)]
        return triton.InferenceResponse(output_tensors=tensors)
    except TridetrError as error:
        message = str(error)
    except Exception as error:  # the engine's own exception types
        message = f"{type(error).__name__}: {error}"
    return _refusal(triton, message)


def answer_all(
    triton: Any, requests: Sequence[Any], run: Callable[[list[Frames]], Sequence[Sequence[Any]]]
) -> list[Any]:
    """Answer several requests with one run; an invalid request does not affect the others.

    Args:
        triton: `triton_python_backend_utils`, which exists only in the stub.
        requests: Triton's requests.
        run: Function from a list of frames [1, 3H/2, W] to the arrays of the contract's outputs, one list per frame.
    """
    tensors = [triton.get_input_tensor_by_name(request, INPUT) for request in requests]
    frames: list[Frames] = []
    answers: list[Any] = [None] * len(requests)
    places: dict[int, slice] = {}
    for index, tensor in enumerate(tensors):
        try:
            held = frames_of(tensor)
            check_shape(held.shape)
        except TridetrError as error:
            answers[index] = _refusal(triton, str(error))
            continue
        count = held.shape[0]
        places[index] = slice(len(frames), len(frames) + count)
        frames += held.singles()
    try:
        results = run(frames)
    except Exception as error:  # the engine's own exception types
        message = f"{type(error).__name__}: {error}"
        return [answer or _refusal(triton, message) for answer in answers]
    for index, place in places.items():
        arrays = [np.concatenate(parts) for parts in zip(*results[place], strict=True)]
        outputs = [_tensor(triton, *named) for named in zip(OUTPUTS, arrays, strict=True)]
        answers[index] = triton.InferenceResponse(output_tensors=outputs)
    return answers


def _refusal(triton: Any, message: str) -> Any:
    return triton.InferenceResponse(output_tensors=[], error=triton.TritonError(message))


def _tensor(triton: Any, name: str, array: Any) -> Any:
    """Wrap an array as a Triton tensor without a copy.

    Triton 2.51 sends 0 bytes for a numpy >= 2 array passed to `Tensor(...)`, so DLPack is used. The capsule's
    destructor is removed: the server renames the capsule in a way that numpy's destructor does not expect, which
    would print a traceback for each tensor. The tensor itself is released by its deleter.
    """
    capsule = array.__dlpack__()
    _set_destructor(capsule, None)
    return triton.Tensor.from_dlpack(name, capsule)
