"""Every way for data to come in, through the real service: formats, several files, URIs, groups and transforms.

The digest of a data set is over names, types, shapes and values, so that equal digests are equal data.
"""

import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import undue

N, D = 60, 3


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def client(root) -> Iterator[undue.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDUE_DATASET_ROOTS", str(root))
        with undue.Client.local() as connected:
            yield connected


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Inputs that decimal text keeps exactly, targets, ids and sites."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(-1000, 1000, size=(N, D)) / 8
    return inputs, rng.integers(0, 3, N), [f"row-{i}" for i in range(N)], [f"site-{i % 4}" for i in range(N)]


COLUMNS = [f"x{j}" for j in range(D)]
SCHEMA = undue.Schema(COLUMNS, target="y", id="k", groups=["site"])


@pytest.fixture(scope="module")
def arrays(client, rows) -> undue.Dataset:
    inputs, targets, ids, sites = rows
    return client.datasets.register("arrays", undue.Arrays(inputs, targets=targets, ids=ids, groups={"site": sites}))


def table(rows, part: slice = slice(None)) -> pa.Table:
    inputs, targets, ids, sites = rows
    columns = {name: inputs[part, j] for j, name in enumerate(COLUMNS)}
    return pa.table({**columns, "y": targets[part], "k": ids[part], "site": sites[part]})


def write_csv(rows, path: Path, part: slice = slice(None)) -> Path:
    inputs, targets, ids, sites = rows
    lines = [[*COLUMNS, "y", "k", "site"]]
    lines += [[*map(repr, inputs[row].tolist()), str(targets[row]), ids[row], sites[row]] for row in range(N)[part]]
    text = "".join(",".join(line) + "\r\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def same(found: undue.Dataset, expected: undue.Dataset) -> None:
    assert found.state == "READY"
    assert found.report.digest == expected.report.digest
    assert found.report.groups == expected.report.groups
    assert len(found) == len(expected)


def test_groups_are_counted(arrays) -> None:
    assert arrays.report.groups == (undue.Group("site", 4),)
    assert arrays.report.has_ids


@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz"])
def test_csv_is_the_same_data(client, rows, arrays, root, name) -> None:
    path = write_csv(rows, root / name)
    sent = client.datasets.register("csv", path, SCHEMA)
    same(sent, arrays)
    assert sent.report.files == (name,)
    same(client.datasets.register("csv", f"file://{path}", SCHEMA), arrays)


PARTS = [slice(0, 10), slice(10, 11), slice(11, N)]


def test_several_csv_files_follow_each_other(client, rows, arrays, tmp_path) -> None:
    paths = [write_csv(rows, tmp_path / f"{9 - n}.csv", part) for n, part in enumerate(PARTS)]
    same(client.datasets.register("csv", paths, SCHEMA), arrays)


@pytest.fixture(scope="module")
def many(rows, root) -> Path:
    folder = root / "many"
    folder.mkdir()
    for n, part in enumerate(PARTS):
        pq.write_table(table(rows, part), folder / f"part-{n}.parquet")
    return folder


def test_many_parquet_files_by_upload_and_by_uri(client, arrays, many) -> None:
    names = tuple(f"part-{n}.parquet" for n in range(3))
    for source in ([many / name for name in names], str(many / "*.parquet"), f"file://{many}/part-?.parquet"):
        found = client.datasets.register("many", source, SCHEMA)
        same(found, arrays)
        assert found.report.files == names
    back = client.datasets.register("many", [many / name for name in reversed(names)], SCHEMA)
    assert back.report.digest != arrays.report.digest  # the order of rows is part of what the data is


@pytest.mark.filterwarnings("ignore::undue.ModelWarning")  # its weights were never trained
def test_data_read_where_it_lies_gives_the_same_scores(client, rows, arrays, many) -> None:
    inputs, _, _, _ = rows
    torch.manual_seed(0)
    module = torch.nn.Linear(D, 3, dtype=torch.float64)
    objective = undue.Objective("cross_entropy", l2=0.1)
    model = client.models.register("net", module, objective=objective, sample=arrays, example_inputs=inputs[:2])
    by_uri = client.datasets.register("lies", f"file://{many}/*.parquet", SCHEMA)
    expected, found = (
        client.influence(model, train=data, test=data, rows=[0, 11], top_k=None).result(timeout=120).scores
        for data in (arrays, by_uri)
    )
    assert np.array_equal(found, expected)


def test_a_file_that_changes_afterwards_is_noticed(client, rows, root) -> None:
    path = root / "changing.parquet"
    pq.write_table(table(rows), path)
    uri = f"file://{path}"
    data = client.datasets.register("changing", uri, SCHEMA)
    module = torch.nn.Linear(D, 3, dtype=torch.float64)
    objective = undue.Objective("cross_entropy", l2=0.1)
    model = client.models.register("changing", module, objective=objective, example_inputs=rows[0][:2])
    pq.write_table(table(rows, slice(0, 30)), path)
    with pytest.raises(undue.JobFailed) as caught:
        client.influence(model, train=data, test=data, rows=[0]).result(timeout=120)
    assert caught.value.reason == "DATASET_CHANGED"


def write_idx(path: Path, array: np.ndarray) -> Path:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_idx_with_a_transform_is_what_arrays_make_of_it(client, root) -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (20, 4, 5)), rng.integers(0, 10, 20)
    folder = root / "idx"
    folder.mkdir()
    pair = [
        write_idx(folder / "t-images-idx3-ubyte.gz", images),
        write_idx(folder / "t-labels-idx1-ubyte", labels),
    ]
    # A scale, mean and std that float32 arithmetic keeps exactly.
    image = {"row_shape": (1, 4, 5), "scale": 0.25, "mean": 8, "std": 2}
    schema = undue.Schema(undue.Input("t-images", **image), target="t-labels")
    expected = client.datasets.register(
        "idx", undue.Arrays(((images[:, None] / 4 - 8) / 2).astype(np.float32), targets=labels.astype(np.uint8))
    )
    for source in (pair, f"file://{folder}/t-*", str(folder / "t-*")):
        found = client.datasets.register("idx", source, schema, format="idx")
        assert found.report.digest == expected.report.digest
        assert (found.report.inputs[0].dtype, found.report.inputs[0].row_shape) == ("float32", (1, 4, 5))
    named = undue.Schema(undue.Input("image", **image), target="label")
    by_column = client.datasets.register("idx", {"image": pair[0], "label": pair[1]}, named)
    assert by_column.report.digest == expected.report.digest


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) bytes as a PNG."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.tobytes() for row in pixels.astype(np.uint8))
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_a_folder_of_images_by_upload_and_by_uri(client, root) -> None:
    rng = np.random.default_rng(2)
    folder = root / "images"
    for name in ("dog/1", "cat/2", "cat/1", "cow/1"):
        write_png(folder / f"{name}.png", rng.integers(0, 256, (4, 5, 3)))
    (folder / "cat/.hidden").write_text("no image")
    sent = client.datasets.register("images", folder)
    assert (sent.format, len(sent), sent.report.classes) == ("image_folder", 4, ("cat", "cow", "dog"))
    assert sent.report.groups == (undue.Group("class", 3),)
    assert sent.report.has_ids
    by_uri = client.datasets.register("images", f"file://{folder}")
    same(by_uri, sent)
    assert by_uri.report.classes == sent.report.classes
    scaled = undue.Schema(undue.Input("image", scale=1 / 255, mean=[0.5] * 3, std=[0.25] * 3), target="label")
    found = client.datasets.register("images", folder, scaled)
    assert found.report.inputs[0].dtype == "float32"
    assert (found.report.groups, found.report.has_ids) == ((), False)


def test_parquet_with_a_transform_of_scalar_columns(client, rows, tmp_path) -> None:
    inputs, targets, _, _ = rows
    pq.write_table(table(rows), tmp_path / "d.parquet")
    schema = undue.Schema(undue.Input(COLUMNS, scale=2, mean=[1, 2, 4], std=[1, 2, 4]), target="y")
    found = client.datasets.register("scaled", tmp_path / "d.parquet", schema)
    values = ((inputs * 2 - [1, 2, 4]) / [1, 2, 4]).astype(np.float32)
    expected = client.datasets.register("scaled", undue.Arrays(values, targets=targets))
    assert found.report.digest == expected.report.digest


def test_a_group_that_is_no_column_is_named(client, rows, tmp_path) -> None:
    path = write_csv(rows, tmp_path / "d.csv")
    with pytest.raises(undue.JobFailed, match="nowhere") as caught:
        client.datasets.register("lacking", path, undue.Schema(COLUMNS, target="y", groups=["nowhere"]))
    assert caught.value.reason == "COLUMN_NOT_FOUND"


def test_the_command_line_does_the_same(client, arrays, many) -> None:
    words = ["--server", client.address, "--json", "datasets", "register", "line"]
    words += [str(path) for path in sorted(many.iterdir())]
    words += ["--inputs", *COLUMNS, "--target", "y", "--id", "k", "--group", "site"]
    command = [sys.executable, "-m", "undue.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert report["digest"] == arrays.report.digest
    assert report["groups"] == [{"name": "site", "values": 4}]
