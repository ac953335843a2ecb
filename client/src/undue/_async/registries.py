"""Register, look up and list models and data sets."""

import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import cast

from undue import _convert
from undue._architectures import OptionValue, architecture_message, weights_source
from undue._blobs import blob_of_file
from undue._errors import ModelWarning, invalid
from undue._export import is_program, write_pt2
from undue._grpc_aio import in_thread
from undue._inputs import Objective, resource_name, row_numbers, strings
from undue._onnx import whole_model
from undue._recipes import Checkpoint, Training, checked_recipe
from undue._resources import Dataset, Example, Model
from undue._schema import Arrays, Schema
from undue._sources import DatasetFormat, Source, model_file
from undue.v1 import datasets_pb2, jobs_pb2, models_pb2

from .connection import AsyncConnection, all_pages
from .data import send_arrays, send_files
from .instances import read_rows
from .kinds import AsyncValidationJob
from .recipes import send_checkpoints, send_training
from .uploads import send


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
        training: Training | None = None,
        checkpoints: Iterable[Checkpoint] = (),
        wait: bool = True,
        example_inputs: object = None,
        architecture: str | None = None,
        architecture_options: Mapping[str, OptionValue] | None = None,
    ) -> Model:
        """Register a new version of a model and have it checked.

        Args:
            name: its id: lower-case letters, digits and hyphens, starting with a letter.
            source: path of a .onnx or .pt2 file, or an nn.Module or ExportedProgram. A module is exported with the
                caller's torch, in evaluation mode and on the CPU, and is left as it was. Weights that lie in a file
                beside the .onnx are joined to it. With an architecture, weights alone: a .safetensors file, a mapping
                of name to array, or a plain state_dict (.pt, .pth), which the caller's torch reads; no code in it runs.
            objective: what its weights minimise.
            parameters: fnmatch patterns of the parameters that influence runs over; None means all.
            output: name of the output that is the prediction; needed where there are several.
            sample: data set whose rows the parity and fit checks use; usually the training set.
            training: the recipe by which it was trained, by which `retrain` and `fidelity` train it again.
            checkpoints: the same model at other weights, for `tracin`, `trak` and averages of any method (ensemble=).
            wait: whether to wait until it is READY; otherwise it is returned as VALIDATING.
            example_inputs: for an nn.Module: a tensor, a tuple of tensors, or a dict of input name to tensor; a row or
                two suffice.
            architecture: of weights alone: what they are loaded into; `client.server_info().architectures` lists them.
            architecture_options: of the architecture, e.g. {"classes": 10}; those left out have their defaults.

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
        recipe, others = checked_recipe(training, checkpoints)
        of = architecture_message(architecture, architecture_options)
        with tempfile.TemporaryDirectory(prefix="undue-") as scratch:
            if of is not None:
                path: Path = await in_thread(weights_source, source, Path(scratch))
                message.format = models_pb2.Model.FORMAT_SAFETENSORS
                message.architecture.CopyFrom(of)
            elif is_program(source):
                path = await in_thread(write_pt2, source, example_inputs, Path(scratch))
                message.format = models_pb2.Model.FORMAT_PT2
            else:
                named, message.format = await in_thread(model_file, source)
                path = await in_thread(whole_model, named, Path(scratch))
            message.upload = await send(self._connection, await in_thread(blob_of_file, path, "source"))
        if recipe is not None:
            message.training.CopyFrom(await send_training(self._connection, recipe))
        message.checkpoints.extend(await send_checkpoints(self._connection, others))
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

    async def delete(self, name: Model | str, *, force: bool = False, etag: str | None = None) -> None:
        """Delete a version of a model; a name without a version means all of them.

        Bytes that nothing else uses go with it.

        Args:
            name: the model, or its name.
            force: delete it although jobs name it. Jobs that need it and have not ended are cancelled;
                what has ended keeps its result.
            etag: delete only what was seen: the `.etag` it had then.

        Raises:
            NotFound: there is no such model.
            FailedPrecondition: others name it (RESOURCE_IN_USE), or it has changed (ETAG_MISMATCH).
            Unavailable: the service cannot be reached.
        """
        request = models_pb2.DeleteModelRequest(
            name=resource_name("name", "models", name), etag=etag or "", force=force
        )
        await self._connection.call(self._connection.models.DeleteModel, request)


class AsyncDatasets:
    """The data sets of a service: `client.datasets`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def register(
        self,
        name: str,
        source: Arrays | Source,
        schema: Schema | None = None,
        wait: bool = True,
        *,
        format: DatasetFormat | None = None,  # noqa: A002 (the field's own word)
    ) -> Dataset:
        """Register a new version of a data set and have it checked.

        Args:
            name: its id: lower-case letters, digits and hyphens, starting with a letter.
            source: what holds the rows:
                `undue.Arrays`;
                the path of a .npz, .parquet, .csv, .csv.gz or IDX file (.idx, -ubyte, -ubyte.gz);
                a list of paths, or one with * and ?, of Parquet, CSV (whose rows follow each other) or IDX files;
                a dict of column to path, for IDX, whose files are one column each: without it `x-idx3-ubyte.gz` is `x`;
                a folder of images, one folder a class, which is packed and sent as one file;
                a URI (file:///…), which is not opened here: the service reads those files where they lie, if its
                operator has named a folder above them in UNDUE_DATASET_ROOTS.
            schema: which columns of the files play which part; arrays have none, and a folder of images does without:
                its columns are image, label (the number of its class, in the order of their names), path (its id) and
                class (a group).
            wait: whether to wait until it is READY; otherwise it is returned as VALIDATING.
            format: "npz", "parquet", "csv", "idx" or "image_folder", where the name does not tell.

        Raises:
            InvalidArgument: an argument is wrong; URI_REFUSED.
            NotFound: URI_NOT_FOUND.
            JobFailed: the check failed; the reason says why.
            Unavailable: the service cannot be reached.
        """
        if isinstance(source, Arrays):
            if schema is not None or format is not None:
                raise invalid("schema", "and format are for files; Arrays name their parts themselves")
            message = datasets_pb2.Dataset(arrays=await send_arrays(self._connection, source))
        else:
            message = datasets_pb2.Dataset(file=await send_files(self._connection, source, schema, format))
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

    async def delete(self, name: Dataset | str, *, force: bool = False, etag: str | None = None) -> None:
        """Delete a version of a data set; a name without a version means all of them.

        Bytes that nothing else uses go with it.

        Args:
            name: the data set, or its name.
            force: delete it although jobs or models name it. Jobs that need it and have not ended are cancelled;
                what has ended keeps its result.
            etag: delete only what was seen: the `.etag` it had then.

        Raises:
            NotFound: there is no such data set.
            FailedPrecondition: others name it (RESOURCE_IN_USE), or it has changed (ETAG_MISMATCH).
            Unavailable: the service cannot be reached.
        """
        request = datasets_pb2.DeleteDatasetRequest(
            name=resource_name("name", "datasets", name), etag=etag or "", force=force
        )
        await self._connection.call(self._connection.datasets.DeleteDataset, request)

    async def read(self, name: Dataset | str, rows: Iterable[int]) -> tuple[Example, ...]:
        """Return the instances of some rows, as a model sees them, in the order given.

        Raises:
            InvalidArgument: a row is out of range.
            NotFound: there is no such data set.
            FailedPrecondition: it is not READY.
            Unavailable: the service cannot be reached.
        """
        return await read_rows(self._connection, resource_name("name", "datasets", name), row_numbers("rows", rows))


def _validation(connection: AsyncConnection, job: str) -> AsyncValidationJob:
    return AsyncValidationJob(connection, jobs_pb2.Job(name=job, state=jobs_pb2.Job.STATE_QUEUED))
