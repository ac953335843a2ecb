"""Register, look up and list models and data sets."""

import os
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import cast

from undue import _convert
from undue._blobs import blob_of_file
from undue._errors import ModelWarning, invalid
from undue._export import is_program, write_pt2
from undue._grpc_aio import in_thread
from undue._inputs import Arrays, Objective, Schema, resource_name, strings
from undue._onnx import whole_model
from undue._resources import Dataset, Model
from undue._sources import dataset_file, model_file
from undue._tensors import Encoded, encode, encode_ids
from undue.v1 import datasets_pb2, jobs_pb2, models_pb2

from .connection import AsyncConnection, all_pages
from .kinds import AsyncValidationJob
from .uploads import send, send_tensor


class AsyncModels:
    """The models of a service: `client.models`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def register(
        self,
        name: str,
        source: object,
        *,
        objective: Objective,
        parameters: Iterable[str] | None = None,
        output: str | None = None,
        sample: Dataset | str | None = None,
        wait: bool = True,
        example_inputs: object = None,
    ) -> Model:
        """Register a new version of a model and have it checked.

        Args:
            name: its id: lower-case letters, digits and hyphens, starting with a letter.
            source: path of a .onnx or .pt2 file, or an nn.Module or ExportedProgram. A module is exported with the
                caller's torch, in evaluation mode and on the CPU, and is left as it was. Weights that lie in a file
                beside the .onnx are joined to it.
            objective: what its weights minimise.
            parameters: fnmatch patterns of the parameters that influence runs over; None means all.
            output: name of the output that is the prediction; needed where there are several.
            sample: data set whose rows the parity and fit checks use; usually the training set.
            wait: whether to wait until it is READY; otherwise it is returned as VALIDATING.
            example_inputs: for an nn.Module: a tensor, a tuple of tensors, or a dict of input name to tensor; a row or
                two suffice.

        Returns:
            The new version. What its report warns of is also issued as ModelWarning.

        Raises:
            InvalidArgument: an argument is wrong, or torch cannot export the module.
            JobFailed: the check failed; the reason says why.
            Unavailable: the service cannot be reached.
        """
        if not isinstance(objective, Objective):
            raise invalid("objective", "must be an undue.Objective, e.g. undue.Objective('cross_entropy', l2=1e-3)")
        message = models_pb2.Model(objective=_convert.objective_message(objective), output=output or "")
        message.parameters.extend(strings("parameters", parameters or ()))
        if sample is not None:
            message.sample = resource_name("sample", "datasets", sample)
        with tempfile.TemporaryDirectory(prefix="undue-") as scratch:
            if is_program(source):
                path: Path = await in_thread(write_pt2, source, example_inputs, Path(scratch))
                message.format = models_pb2.Model.FORMAT_PT2
            else:
                named, message.format = model_file(source)
                path = await in_thread(whole_model, named, Path(scratch))
            message.upload = await send(self._connection, await in_thread(blob_of_file, path, "source"))
        request = models_pb2.CreateModelRequest(model_id=name, model=message, request_id=str(uuid.uuid4()))
        created = await self._connection.call(self._connection.models.CreateModel, request)
        if not wait:
            return _convert.model(created)
        model = cast(Model, await _validation(self._connection, created.validation_job).result())
        for text in model.report.warnings if model.report else ():
            warnings.warn(f"{model.name}: {text}", ModelWarning, stacklevel=2)
        return model

    async def get(self, name: str) -> Model:
        """Return a version of a model; without a version, the newest.

        Raises:
            InvalidArgument: it is no model's name.
            NotFound: there is no such model.
            Unavailable: the service cannot be reached.
        """
        request = models_pb2.GetModelRequest(name=resource_name("name", "models", name))
        return _convert.model(await self._connection.call(self._connection.models.GetModel, request))

    async def list(self, parent: str | None = None) -> AsyncIterator[Model]:
        """Yield versions, newest first; those of `models/{id}` only, where a parent is given.

        Raises:
            InvalidArgument: the parent is no model's name.
            Unavailable: the service cannot be reached.
        """
        request = models_pb2.ListModelsRequest(parent=resource_name("parent", "models", parent) if parent else "")
        async for message in all_pages(self._connection, self._connection.models.ListModels, request, "models"):
            yield _convert.model(cast(models_pb2.Model, message))


class AsyncDatasets:
    """The data sets of a service: `client.datasets`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def register(
        self,
        name: str,
        source: Arrays | str | os.PathLike[str],
        schema: Schema | None = None,
        wait: bool = True,
    ) -> Dataset:
        """Register a new version of a data set and have it checked.

        Args:
            name: its id: lower-case letters, digits and hyphens, starting with a letter.
            source: arrays, or the path of a .npz or .parquet file.
            schema: which columns of the file play which part; arrays have none.
            wait: whether to wait until it is READY; otherwise it is returned as VALIDATING.

        Raises:
            InvalidArgument: an argument is wrong.
            JobFailed: the check failed; the reason says why.
            Unavailable: the service cannot be reached.
        """
        if isinstance(source, Arrays):
            if schema is not None:
                raise invalid("schema", "is for files; Arrays name their parts themselves")
            message = datasets_pb2.Dataset(arrays=await self._send_arrays(source))
        else:
            message = datasets_pb2.Dataset(file=await self._send_file(source, schema))
        request = datasets_pb2.CreateDatasetRequest(dataset_id=name, dataset=message, request_id=str(uuid.uuid4()))
        created = await self._connection.call(self._connection.datasets.CreateDataset, request)
        if not wait:
            return _convert.dataset(created)
        return cast(Dataset, await _validation(self._connection, created.validation_job).result())

    async def get(self, name: str) -> Dataset:
        """Return a version of a data set; without a version, the newest.

        Raises:
            InvalidArgument: it is no data set's name.
            NotFound: there is no such data set.
            Unavailable: the service cannot be reached.
        """
        request = datasets_pb2.GetDatasetRequest(name=resource_name("name", "datasets", name))
        return _convert.dataset(await self._connection.call(self._connection.datasets.GetDataset, request))

    async def list(self, parent: str | None = None) -> AsyncIterator[Dataset]:
        """Yield versions, newest first; those of `datasets/{id}` only, where a parent is given.

        Raises:
            InvalidArgument: the parent is no data set's name.
            Unavailable: the service cannot be reached.
        """
        request = datasets_pb2.ListDatasetsRequest(parent=resource_name("parent", "datasets", parent) if parent else "")
        async for message in all_pages(self._connection, self._connection.datasets.ListDatasets, request, "datasets"):
            yield _convert.dataset(cast(datasets_pb2.Dataset, message))

    async def _send_arrays(self, source: Arrays) -> datasets_pb2.ArraysSource:
        inputs = {name: f"inputs[{name!r}]" if name else "inputs" for name in source.named_inputs()}
        parts = [(inputs[name], encode(inputs[name], each)) for name, each in source.named_inputs().items()]
        numbers = {"targets": source.targets, "weights": source.weights}
        parts += [(field, encode(field, each)) for field, each in numbers.items() if each is not None]
        if source.ids is not None:
            parts.append(("ids", encode_ids("ids", source.ids)))
        _check_rows(parts)
        sent = {field: await send_tensor(self._connection, array, field) for field, array in parts}
        message = datasets_pb2.ArraysSource(
            targets=sent.get("targets"), ids=sent.get("ids"), weights=sent.get("weights")
        )
        for name, field in inputs.items():
            message.inputs[name].CopyFrom(sent[field])
        return message

    async def _send_file(self, source: str | os.PathLike[str], schema: Schema | None) -> datasets_pb2.FileSource:
        path, file_format = dataset_file(source)
        if not isinstance(schema, Schema):
            raise invalid("schema", "is needed with a file: undue.Schema(inputs=['x1', 'x2'], target='y')")
        message = datasets_pb2.Schema(target=schema.target or "", id=schema.id or "", weight=schema.weight or "")
        for name, columns in schema.inputs.items():
            message.inputs[name].columns.extend(columns)
        upload = await send(self._connection, await in_thread(blob_of_file, path, "source"))
        files = [datasets_pb2.UploadedFile(name=path.name, upload=upload)]
        return datasets_pb2.FileSource(format=file_format, files=files, schema=message)


def _validation(connection: AsyncConnection, job: str) -> AsyncValidationJob:
    return AsyncValidationJob(connection, jobs_pb2.Job(name=job, state=jobs_pb2.Job.STATE_QUEUED))


def _check_rows(parts: list[tuple[str, Encoded]]) -> None:
    first, counted = parts[0]
    for field, array in parts:
        if array.rows != counted.rows:
            raise invalid(field, f"has {array.rows} rows where {first} has {counted.rows}", reason="ROWS_MISMATCH")
