"""PyTorch programs to `.pt2` files, with the caller's own torch. This module never imports torch by itself."""

import contextlib
import copy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ._errors import InvalidArgument, invalid

_HOW = (
    "an nn.Module needs example_inputs: a tensor, a tuple of tensors, or a dict of input name to tensor, "
    "with rows along the first axis, e.g. example_inputs=X[:2]"
)


def is_program(source: object) -> bool:
    """Return whether something is an nn.Module or an ExportedProgram; without torch in the process nothing is."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(source, (torch.nn.Module, torch.export.ExportedProgram))


def write_pt2(source: Any, example_inputs: object, folder: Path) -> Path:
    """Write an nn.Module or an ExportedProgram as `.pt2`; return the file. The module is left as it was.

    Raises:
        InvalidArgument: example inputs are missing or wrong, or torch cannot export the module for any number of rows.
    """
    torch: Any = sys.modules["torch"]
    path = folder / "model.pt2"
    program = source if isinstance(source, torch.export.ExportedProgram) else _export(torch, source, example_inputs)
    if any(tensor.device.type != "cpu" for tensor in _tensors_of(program)):
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(copy.deepcopy(program), "cpu")
    torch.export.save(program, path)
    return path


def _export(torch: Any, module: Any, example_inputs: object) -> Any:
    args, kwargs = _example(torch, example_inputs)
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes = dict.fromkeys(kwargs, batch) if kwargs else tuple(batch for _ in args)
    with _on_cpu_in_eval_mode(module) as ready:
        try:
            return torch.export.export(ready, args, kwargs, dynamic_shapes=shapes)
        except Exception as error:
            raise _explained(error) from error


def _explained(error: Exception) -> InvalidArgument:
    text = str(error).strip() or type(error).__name__
    if "specialized" in text:
        problem = (
            "the module fixes the size of the batch axis; it must work for any number of rows, "
            f"e.g. by x.flatten(1) instead of x.reshape(32, -1). torch says: {text}"
        )
        return invalid("source", problem, reason="STATIC_BATCH")
    return invalid("source", f"torch.export cannot export the module: {text}", reason="MODEL_UNSUPPORTED")


def _example(torch: Any, example_inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if example_inputs is None:
        raise invalid("example_inputs", _HOW)
    if isinstance(example_inputs, Mapping):
        if not example_inputs:
            raise invalid("example_inputs", _HOW)
        return (), {
            str(name): _example_tensor(torch, f"example_inputs[{name!r}]", each)
            for name, each in example_inputs.items()
        }
    if isinstance(example_inputs, (tuple, list)) and any(hasattr(each, "shape") for each in example_inputs):
        return tuple(_example_tensor(torch, f"example_inputs[{i}]", each) for i, each in enumerate(example_inputs)), {}
    return (_example_tensor(torch, "example_inputs", example_inputs),), {}


def _example_tensor(torch: Any, field: str, value: object) -> Any:
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise invalid(field, f"is no tensor ({error}); {_HOW}") from None
    if tensor.ndim == 0 or tensor.shape[0] == 0:
        raise invalid(field, f"has shape {tuple(tensor.shape)} and so no rows; {_HOW}")
    # torch.export takes sizes 0 and 1 for constants.
    return tensor.repeat(2, *[1] * (tensor.ndim - 1)) if tensor.shape[0] == 1 else tensor


@contextlib.contextmanager
def _on_cpu_in_eval_mode(module: Any) -> Iterator[Any]:
    if any(tensor.device.type != "cpu" for tensor in _tensors_of(module)):
        yield copy.deepcopy(module).cpu().eval()
        return
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes.items():
            part.training = training


def _tensors_of(source: Any) -> Iterator[Any]:
    yield from source.parameters()
    yield from source.buffers()
