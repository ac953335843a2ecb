"""Send what a data set is made of."""

import tempfile
from pathlib import Path

from undue import _convert
from undue._archive import pack
from undue._blobs import blob_of_file
from undue._errors import invalid
from undue._grpc_aio import in_thread
from undue._schema import Arrays, Schema, image_folder_schema
from undue._sources import FORMATS, DatasetFormat, LocalFolder, Reference, Source, dataset_source
from undue._tensors import checked_rows, encode, encode_texts
from undue.v1 import datasets_pb2

from .connection import AsyncConnection
from .uploads import send, send_tensor


async def send_arrays(connection: AsyncConnection, source: Arrays) -> datasets_pb2.ArraysSource:
    """Send arrays and return the message that names them.

    Raises:
        InvalidArgument: something is no array, or has another number of rows.
        Error: as `send`.
    """
    inputs = {name: f"inputs[{name!r}]" if name else "inputs" for name in source.named_inputs()}
    groups = {name: f"groups[{name!r}]" for name in source.named_groups()}
    parts = [(inputs[name], encode(inputs[name], each)) for name, each in source.named_inputs().items()]
    numbers = {"targets": source.targets, "weights": source.weights}
    parts += [(field, encode(field, each)) for field, each in numbers.items() if each is not None]
    if source.ids is not None:
        parts.append(("ids", encode_texts("ids", source.ids)))
    parts += [(groups[name], encode_texts(groups[name], each)) for name, each in source.named_groups().items()]
    checked_rows(parts)
    sent = {field: await send_tensor(connection, array, field) for field, array in parts}
    message = datasets_pb2.ArraysSource(targets=sent.get("targets"), ids=sent.get("ids"), weights=sent.get("weights"))
    for name, field in inputs.items():
        message.inputs[name].CopyFrom(sent[field])
    for name, field in groups.items():
        message.groups[name].CopyFrom(sent[field])
    return message


async def send_files(
    connection: AsyncConnection, source: Source, schema: Schema | None, file_format: DatasetFormat | None
) -> datasets_pb2.FileSource:
    """Send files and return the message that names them; what a URI names is not opened.

    Raises:
        InvalidArgument: the source, the format or the schema is wrong, or a file cannot be read.
        Error: as `send`.
    """
    found = await in_thread(dataset_source, source, file_format)
    if schema is None and found.format == "image_folder":
        schema = image_folder_schema()
    if not isinstance(schema, Schema):
        raise invalid("schema", "is needed with a file: undue.Schema(inputs=['x1', 'x2'], target='y')")
    message = datasets_pb2.FileSource(format=FORMATS[found.format], schema=_convert.schema_message(schema))
    if isinstance(found, Reference):
        message.uri = found.uri
    elif isinstance(found, LocalFolder):
        with tempfile.TemporaryDirectory(prefix="undue-") as scratch:
            archive = await in_thread(pack, found.path, Path(scratch))
            upload = await send(connection, await in_thread(blob_of_file, archive, "source"))
        message.files.add(name="images.zip", upload=upload)
    else:
        for name, path in found.files:
            upload = await send(connection, await in_thread(blob_of_file, path, "source"))
            message.files.add(name=name, upload=upload)
    return message
