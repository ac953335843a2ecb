"""What a job asks to be different about training rows, as the engine takes it."""

from base64 import b64decode
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from undue_service.domain.edits import EditSpec, InlineTensor
from undue_service.engine.data import Rows
from undue_service.engine.retraining.edits import Edit

from .rows import tensor


def edits_of(specs: Sequence[EditSpec], train: Rows) -> tuple[Edit, ...]:
    """Return the edits of a job; a single input without a name gets that of the training data's only one."""
    if not specs:
        return ()
    names = list(next(iter(train.batches(1))).inputs)
    return tuple(_edit(spec, names) for spec in specs)


def _edit(spec: EditSpec, names: Sequence[str]) -> Edit:
    inputs = spec.inputs
    if list(inputs) == [""] and len(names) == 1:
        inputs = {names[0]: inputs[""]}
    return Edit(
        without=spec.without,
        replaced=spec.replaced,
        inputs={name: _values(value) for name, value in inputs.items()},
        relabelled=spec.relabelled,
        targets=None if spec.targets is None else _values(spec.targets),
        reweighted=spec.reweighted,
        weights=tensor(np.array(spec.weights, dtype=np.float64)) if spec.reweighted else None,
    )


def _values(value: InlineTensor) -> Tensor:
    array = np.frombuffer(b64decode(value.content), dtype=np.dtype(value.dtype).newbyteorder("<"))
    return tensor(array.reshape(value.shape))
