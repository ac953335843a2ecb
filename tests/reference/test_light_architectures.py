"""The nine light architectures of the onnx wheel: imported, held against onnxruntime, differentiated row by row.

`pytest tests/reference/test_light_architectures.py -rP` prints what was measured, with `-m slow` for all nine.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from light_architectures import NAMES, light_model
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.models import open_model, parity

FAST = ("squeezenet",)
SECONDS = 15
"""Of a processor, for importing any of them: DenseNet-121 has 120 convolutions."""
LARGE = 100 << 20
"""Bytes of a file whose gradients are taken in float32."""

_IMPORT = """
import json, pathlib, sys, time
import torch, torch.export, onnx
from undue_service.models import open_model
torch.set_num_threads(1)

def most():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

path = pathlib.Path(sys.argv[1])
before, begun, processor = most(), time.monotonic(), time.process_time()
open_model(path, "onnx", path.parent)
print(json.dumps({
    "seconds": time.monotonic() - begun,
    "processor": time.process_time() - processor,
    "peak": most() - before,
}))
"""


def cases(fast):
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in NAMES]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    made = {}

    def write(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("light", numbered=True) / f"{name}.onnx"
            made[name].write_bytes(light_model(name).SerializeToString())
        return made[name]

    yield write
    for path in made.values():
        path.unlink()


def rows(count):
    return np.random.default_rng(1).normal(size=(count, 3, 224, 224)).astype(np.float32)


@pytest.mark.parametrize("name", cases(FAST))
def test_it_agrees_with_onnxruntime_and_has_gradients_of_each_row(written, name) -> None:
    path = written(name)
    opened = open_model(path, "onnx", path.parent)
    [column], [output] = opened.inputs, opened.outputs
    assert opened.warnings == ()
    x = rows(2)
    difference = parity(opened, {column.name: x})

    program = Program.from_exported(opened.exported, input_names=[column.name], output_names=[output])
    dtype = torch.float32 if path.stat().st_size > LARGE else torch.float64
    objective = Objective(program.to("cpu", dtype), ObjectiveSpec("cross_entropy"))
    y = torch.tensor([3, 700])
    batch = objective.place(next(TensorRows({column.name: torch.as_tensor(x).to(dtype)}, y).batches(2)))
    outputs = objective.outputs(objective.theta, batch.inputs)
    assert 1e-3 < outputs.std() < 1e6, "the weights make an output of no use"
    norms = loss_gradients(objective, batch).norms()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-8
    for row, norm in enumerate(norms):
        theta = objective.theta.detach().clone().requires_grad_()
        [gradient] = torch.autograd.grad(objective.losses(theta, batch[row : row + 1]).sum(), theta)
        # torch adds up in the type of the numbers, which over 10⁸ of them in float32 is off by 1e-3
        torch.testing.assert_close(norm.double(), gradient.double().norm(), rtol=tolerance, atol=0)
    nodes = sum(node.op == "call_function" for node in opened.exported.graph.nodes)
    print(
        f"{name}: {nodes:,} operators, {objective.space.dim:,} parameters, onnxruntime within {difference:.1e}, "
        f"‖∇ℓ‖ {', '.join(f'{norm:.3g}' for norm in norms)}"
    )


@pytest.mark.parametrize("name", cases(("squeezenet",)))
def test_importing_takes_seconds(written, name) -> None:
    path = written(name)
    done = subprocess.run([sys.executable, "-c", _IMPORT, str(path)], capture_output=True, text=True, check=True)
    found, size = json.loads(done.stdout), path.stat().st_size
    print(
        f"{name}: {size / 1e6:.0f} MB, imported in {found['seconds']:.1f} s ({found['processor']:.1f} s of a "
        f"processor), at most {found['peak'] / 1e6:.0f} MB more"
    )
    assert found["processor"] < SECONDS
    assert found["peak"] < 3.5 * size + (200 << 20)
