"""What torch.jit.save, torch.save and pickle write, known by content, and the lines that make a model of it.

Nothing is unpickled, nor looked at beyond the first bytes and a zip's table of contents.
"""

from collections.abc import Collection
from pathlib import Path

from undue_service.domain.errors import InvalidArgument

from .refusals import PT2_EXPORT, malformed, unsafe, unsupported
from .zips import ZIP_START, open_zip

TORCHSCRIPT_EXPORT = (
    'torch.onnx.export(torch.jit.load("model.pt"), (x,), "model.onnx", dynamo=False, do_constant_folding=False, '
    'input_names=["input"], output_names=["output"], '
    'dynamic_axes={"input": {0: "rows"}, "output": {0: "rows"}})'
)
STATE_DICT_EXPORT = 'safetensors.torch.save_file(torch.load("model.pt", weights_only=True), "weights.safetensors")'
SKLEARN_EXPORT = 'onnx.save(skl2onnx.to_onnx(model, X[:1]), "model.onnx")'

_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""At the start of what torch.save wrote before 1.6."""


def of_start(start: bytes) -> InvalidArgument | None:
    """Return the refusal of a pickle by a file's first bytes; None where it is none."""
    if start[:1] != b"\x80" or start[1:2] > b"\x05":
        return None
    return _saved() if _LEGACY_MAGIC in start[:16] else _pickled()


def of_records(names: Collection[str]) -> InvalidArgument | None:
    """Return the refusal of TorchScript or of torch.save's archive, by its records below its folder."""
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        text = "this is TorchScript, which has no graph of ATen operators. Export it as ONNX, and register that:"
        return unsupported(f"{text}\n    {TORCHSCRIPT_EXPORT}")
    return _saved() if "data.pkl" in names else None


def refuse_foreign(path: Path, expected: str) -> None:
    """Complain of a file that is a pickle or a zip file where neither was expected.

    Args:
        path: the file.
        expected: what it should be, as "an ONNX file".

    Raises:
        InvalidArgument: MODEL_UNSAFE, MODEL_UNSUPPORTED or MODEL_MALFORMED, it is one of them.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    with path.open("rb") as file:
        start = file.read(16)
    found = of_start(start)
    if start.startswith(ZIP_START):
        with open_zip(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
        if "archive_format" in names:
            found = malformed(f"this is a .pt2 archive and not {expected}: register it as format pt2")
        else:
            found = of_records(names) or malformed(f"this is a zip archive and not {expected}")
    if found is not None:
        raise found


def _saved() -> InvalidArgument:
    return unsafe(
        "this is a pickle (torch.save), which runs code when it is loaded and is never opened here. If it is a "
        f"state_dict, write it as safetensors and register that with its architecture:\n    {STATE_DICT_EXPORT}\n"
        'If it is a whole module, load it where you trust it, torch.load("model.pt", weights_only=False), and export '
        f"it:\n    {PT2_EXPORT}"
    )


def _pickled() -> InvalidArgument:
    return unsafe(
        "this is a pickle, which runs code when it is loaded and is never opened here. Export the model instead: of "
        f"scikit-learn\n    {SKLEARN_EXPORT}\nand of torch\n    {PT2_EXPORT}"
    )
