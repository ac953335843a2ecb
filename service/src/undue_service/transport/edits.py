"""Edits of training rows: messages into values of the domain, and back without the numbers that they carry."""

from base64 import b64encode

from undue.v1 import edits_pb2, jobs_pb2, tensors_pb2
from undue_service.domain.edits import EditSpec, InlineTensor
from undue_service.domain.errors import InvalidArgument

from . import sources
from .enums import DTYPES

MAX_EDITED_ROWS = 100_000
"""Of all counterfactuals of a job together."""
MAX_EDIT_BYTES = 2 << 20
"""Of the new inputs and targets of a job together: they are stored with it."""


def read(spec: jobs_pb2.RetrainSpec) -> tuple[EditSpec, ...]:
    """Return what a retrain job asks to be different.

    Raises:
        InvalidArgument: INVALID_FIELD for an edit that names no row, for values that are not one for each row or carry
            no content, and beyond the limits.
    """
    field = "job.retrain.counterfactuals"
    rows = sum(
        len(one.without) + len(one.replaced) + len(one.relabelled) + len(one.reweighted) for one in spec.counterfactuals
    )
    if rows > MAX_EDITED_ROWS:
        raise InvalidArgument.at(field, f"edits {rows:,} rows in all, more than {MAX_EDITED_ROWS:,}: ask several jobs")
    carried = sum(len(tensor.data) for one in spec.counterfactuals for tensor in (*one.inputs.values(), one.targets))
    if carried > MAX_EDIT_BYTES:
        text = f"carries {carried:,} bytes of new values, more than {MAX_EDIT_BYTES:,}: ask several jobs"
        raise InvalidArgument.at(field, text)
    return tuple(_edit(f"{field}[{place}]", one) for place, one in enumerate(spec.counterfactuals))


def write(edit: EditSpec) -> edits_pb2.Edit:
    """Return the message of an edit, without its inputs and targets."""
    return edits_pb2.Edit(
        without=edit.without,
        replaced=edit.replaced,
        relabelled=edit.relabelled,
        reweighted=edit.reweighted,
        weights=edit.weights,
    )


def _edit(field: str, edit: edits_pb2.Edit) -> EditSpec:
    if not (edit.without or edit.replaced or edit.relabelled or edit.reweighted):
        raise InvalidArgument.at(field, "names no training row")
    if edit.replaced and not edit.inputs:
        raise InvalidArgument.at(f"{field}.inputs", "are needed for the rows of `replaced`")
    if len(edit.weights) != len(edit.reweighted):
        text = f"has {len(edit.weights)} numbers for {len(edit.reweighted)} rows"
        raise InvalidArgument.at(f"{field}.weights", text)
    inputs = {
        name: _tensor(f"{field}.inputs[{name}]", tensor, len(edit.replaced))
        for name, tensor in sorted(edit.inputs.items())
    }
    targets = None
    if edit.HasField("targets"):
        targets = _tensor(f"{field}.targets", edit.targets, len(edit.relabelled))
    elif edit.relabelled:
        raise InvalidArgument.at(f"{field}.targets", "is needed for the rows of `relabelled`")
    return EditSpec(
        without=tuple(edit.without),
        replaced=tuple(edit.replaced),
        inputs=inputs,
        relabelled=tuple(edit.relabelled),
        targets=targets,
        reweighted=tuple(edit.reweighted),
        weights=tuple(edit.weights),
    )


def _tensor(field: str, tensor: tensors_pb2.Tensor, rows: int) -> InlineTensor:
    if not tensor.HasField("data"):
        raise InvalidArgument.at(f"{field}.upload", "new values travel with the job: send them as data")
    dtype = DTYPES.to_domain(f"{field}.dtype", tensor.dtype)
    if dtype == "utf8":
        raise InvalidArgument.at(f"{field}.dtype", "new values are numbers")
    sources.check_tensor(field, tensor)
    if tensor.shape[0] != rows:
        raise InvalidArgument.at(f"{field}.shape", f"has {tensor.shape[0]} rows where {rows} are named")
    return InlineTensor(dtype, tuple(tensor.shape), b64encode(tensor.data).decode())
