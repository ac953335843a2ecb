"""The errors that both formats share, and the lines of code that repair a model."""

from collections.abc import Iterable

from undue_service.domain.errors import InvalidArgument, Reason

ONNX_EXPORT = (
    'torch.onnx.export(model, (x,), "model.onnx", dynamo=True, optimize=False, '
    "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), external_data=False)"
)
PT2_EXPORT = (
    "torch.export.save(torch.export.export(model.eval(), (x,), "
    'dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), "model.pt2")'
)
_MAX_QUOTED = 400


def quoted(text: object) -> str:
    """Return untrusted text in quotes, cut to a length that an error message can carry."""
    plain = str(text)
    return repr(plain if len(plain) <= _MAX_QUOTED else plain[:_MAX_QUOTED] + "…")


def malformed(message: str) -> InvalidArgument:
    """Return the error for a file that is not what it says it is."""
    return InvalidArgument(Reason.MODEL_MALFORMED, message)


def unsafe(message: str) -> InvalidArgument:
    """Return the error for a file that would run code or reach outside itself."""
    return InvalidArgument(Reason.MODEL_UNSAFE, message)


def unsupported(message: str) -> InvalidArgument:
    """Return the error for a correct model that this service does not read."""
    return InvalidArgument(Reason.MODEL_UNSUPPORTED, message)


def static_batch(what: str, export_line: str) -> InvalidArgument:
    """Return the error for a model that fixes how many rows it takes at once."""
    return InvalidArgument(
        Reason.STATIC_BATCH, f"{what}; the number of rows must stay open. Export it again with\n    {export_line}"
    )


def unsupported_operators(names: Iterable[str], advice: str) -> InvalidArgument:
    """Return the error that names every operator at once that cannot be read."""
    found = sorted(set(names))
    text = f"the model uses {', '.join(found)}; {advice}"
    return InvalidArgument(Reason.UNSUPPORTED_OPERATORS, text, metadata={"operators": ",".join(found)})
