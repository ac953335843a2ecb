"""One suite for every DatasetSource: the same data comes out of each, however it is stored and read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dataset_formats import FORMATS, Files
from dataset_tables import TABLES, Array, Table, reference_digest
from undue_service.datasets.digest import digest_of
from undue_service.datasets.opening import open_source, validate
from undue_service.datasets.source import Columns, DatasetSource
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.reports import ColumnSchema, GroupSchema
from undue_service.domain.specs import FileSource, SchemaSpec


def small() -> Table:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    weights = np.array([1.0, 1.0, 1.0, 2.0])
    return Table(
        {"x": values}, np.array([0, 1, 0, 1]), ["a", "b", "c", "d"], weights, groups={"site": ["1", "2", "2", "2"]}
    )


@pytest.fixture(scope="module", params=[form for form in FORMATS if FORMATS[form].holds(small())])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Table], DatasetSource]:
    form = FORMATS[request.param]

    def open_table(table: Table) -> DatasetSource:
        if not form.holds(table):
            pytest.skip(f"{request.param} holds no such data")
        files = Files(tmp_path_factory.mktemp("files"))
        return open_source(form.build(table, files), files.resolve)

    return open_table


CASES = [
    (name, form, by_row)
    for form in FORMATS
    for name in TABLES
    if FORMATS[form].holds(TABLES[name])
    for by_row in ((False, True) if "parquet" in form else (False,))
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, DatasetSource, str]:
    name, form, by_row = request.param
    files = Files(tmp_path_factory.mktemp("files"))
    return TABLES[name], open_source(FORMATS[form].build(TABLES[name], files), files.resolve, by_row=by_row), name


@pytest.mark.parametrize("form", list(FORMATS))
def test_every_format_holds_some_table(form: str) -> None:
    assert any(held == form for _, held, _ in CASES)


def assert_rows(got: Iterator[Columns], table: Table, rows: Array, size: int) -> None:
    """Compare with the table every value, type, shape, row number and block length."""
    blocks = list(got)
    lengths = [len(block.index) for block in blocks]
    assert lengths == [min(size, len(rows) - start) for start in range(0, len(rows), size)]
    if not blocks:
        return
    np.testing.assert_array_equal(np.concatenate([block.index for block in blocks]), rows)
    assert all(block.index.dtype == np.int64 and block.inputs.keys() == table.inputs.keys() for block in blocks)
    parts = [([block.inputs[name] for block in blocks], values) for name, values in table.inputs.items()]
    parts += [
        ([block.targets for block in blocks], table.targets),
        ([block.weights for block in blocks], table.weights),
    ]
    for found, expected in parts:
        if expected is None:
            assert found == [None] * len(blocks)
            continue
        joined = np.concatenate(found)
        assert joined.dtype == expected.dtype
        assert all(len(values) == length for values, length in zip(found, lengths, strict=True))
        np.testing.assert_array_equal(joined, expected[rows], strict=True)


def test_says_what_it_holds(case: tuple[Table, DatasetSource, str]) -> None:
    table, source, _ = case
    assert len(source) == len(table)
    assert source.schema.inputs == tuple(
        ColumnSchema(name, values.dtype.name, values.shape[1:]) for name, values in sorted(table.inputs.items())
    )
    assert source.schema.target is not None
    assert table.targets is not None
    assert (source.schema.target.dtype, source.schema.target.shape) == (table.targets.dtype.name, ())
    assert source.schema.has_ids == (table.ids is not None)
    assert source.schema.has_weights == (table.weights is not None)


@pytest.mark.parametrize("size", [1, 7, 64, 500, 10_000])
def test_all_rows_in_order_for_any_batch_size(case: tuple[Table, DatasetSource, str], size: int) -> None:
    table, source, _ = case
    assert_rows(source.batches(None, size), table, np.arange(len(table)), size)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_rows_in_any_order_with_repeats(case: tuple[Table, DatasetSource, str], size: int) -> None:
    table, source, _ = case
    rows = np.random.default_rng(0).integers(0, len(table), 60)
    for wanted in (rows, np.sort(rows), np.array([3] * 25), rows[:0], np.arange(len(table))[::-1][:40]):
        assert_rows(source.batches(wanted.tolist(), size), table, wanted, size)


def test_the_same_rows_again_and_interleaved(case: tuple[Table, DatasetSource, str]) -> None:
    table, source, _ = case
    first, second = source.batches(None, 100), source.batches(range(len(table)), 100)
    pairs = list(zip(first, second, strict=True))
    assert_rows(iter([a for a, _ in pairs]), table, np.arange(len(table)), 100)
    assert_rows(iter([b for _, b in pairs]), table, np.arange(len(table)), 100)


def ids_of(table: Table) -> list[str]:
    return table.ids or [str(row) for row in range(len(table))]


def test_ids(case: tuple[Table, DatasetSource, str]) -> None:
    table, source, _ = case
    expected = ids_of(table)
    rows = [5, 0, len(table) - 1, 5]
    assert source.ids(rows) == [expected[row] for row in rows]
    assert source.ids(range(len(table))) == expected
    assert source.ids([]) == []


def test_groups(case: tuple[Table, DatasetSource, str]) -> None:
    table, source, _ = case
    assert source.schema.groups == tuple(sorted(table.groups))
    rows = [5, 0, len(table) - 1, 5]
    assert source.groups(rows) == {name: [values[row] for row in rows] for name, values in table.groups.items()}
    assert source.groups(range(len(table))) == table.groups
    assert source.groups([]) == {name: [] for name in table.groups}


@pytest.mark.parametrize("row", [-1, 10**6, 2**63, 2**70])
def test_a_row_beyond_the_data_set_is_refused_at_once(case: tuple[Table, DatasetSource, str], row: int) -> None:
    _, source, _ = case
    for ask in (
        lambda: source.batches([0, row], 2),
        lambda: source.ids([0, row]),
        lambda: source.groups([0, row]),
    ):
        with pytest.raises(InvalidArgument, match=f"row {row} does not exist") as error:
            ask()
        assert error.value.reason is Reason.ROW_OUT_OF_RANGE


def test_report(case: tuple[Table, DatasetSource, str]) -> None:
    table, source, name = case
    calls: list[tuple[str, int, int]] = []
    report = validate(source, lambda *call: calls.append(call))
    assert report.rows == len(table)
    assert report.inputs == source.schema.inputs
    assert (report.has_ids, report.has_weights) == (source.schema.has_ids, source.schema.has_weights)
    assert report.digest == digest_of(source) == DIGESTS[name]
    assert report.groups == tuple(GroupSchema(name, len({*values})) for name, values in sorted(table.groups.items()))
    assert calls[-1] == ("reading", len(table), len(table))
    assert [done for _, done, _ in calls] == sorted({done for _, done, _ in calls})


DIGESTS = {name: reference_digest(table) for name, table in TABLES.items()}


NUMBERS = (
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"],
    ["int64", "float64", "float32", "bool"],  # what CSV can hold
    ["uint8", "int8", "int16", "int32", "float32", "float64"],  # IDX
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    rows = draw(st.integers(1, 12))
    numbers = st.sampled_from(draw(st.sampled_from(NUMBERS)))

    def array(shape: tuple[int, ...]) -> Array:
        dtype = np.dtype(draw(numbers))
        finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
        return draw(hnp.arrays(dtype, (rows, *shape), elements=hnp.from_dtype(dtype, **finite)))

    shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
    inputs = {name: array(draw(shapes)) for name in draw(st.sets(st.sampled_from(["", "a", "b"]), min_size=1))}
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5)
    ids = draw(st.none() | st.lists(text, min_size=rows, max_size=rows, unique=True))
    targets = array(draw(st.sampled_from([(), (2,)]))) if draw(st.booleans()) else None
    weights = np.arange(1, rows + 1).astype(draw(numbers)) if draw(st.booleans()) else None
    value = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)
    names = draw(st.sets(st.sampled_from(["site", "age", "size"])))
    groups = {name: draw(st.lists(value, min_size=rows, max_size=rows)) for name in sorted(names)}
    return Table(inputs, targets, ids, weights, groups=groups)


@settings(max_examples=40, deadline=None)
@given(table=tables(), data=st.data())
def test_any_table_is_the_same_in_every_format(table: Table, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(table) - 1), max_size=20))
    size = data.draw(st.integers(1, 25))
    reports = {}
    ways = [(name, form, False) for name, form in FORMATS.items() if form.holds(table)]
    for name, form, by_row in [*ways, *((name, form, True) for name, form, _ in ways if "parquet" in name)]:
        with TemporaryDirectory() as folder:
            files = Files(Path(folder))
            source = open_source(form.build(table, files), files.resolve, by_row=by_row)
            assert_rows(source.batches(rows, size), table, np.array(rows, dtype=int), size)
            assert_rows(source.batches(None, size), table, np.arange(len(table)), size)
            assert source.ids(rows) == [ids_of(table)[row] for row in rows]
            assert source.groups(rows) == {name: [texts[row] for row in rows] for name, texts in table.groups.items()}
            reports[name, by_row] = validate(source, lambda *_: None)
    assert {report.digest for report in reports.values()} == {reference_digest(table)}, reports
    assert len({(report.inputs, report.rows, report.has_ids, report.has_weights) for report in reports.values()}) == 1


CHANGES: dict[str, Callable[[Table], None]] = {
    "a value": lambda t: t.inputs.update(x=t.inputs["x"] + np.eye(4, 3, dtype=np.float32)),
    "a type": lambda t: t.inputs.update(x=t.inputs["x"].astype(np.float64)),
    "a shape": lambda t: t.inputs.update(x=t.inputs["x"].reshape(4, 3, 1)),
    "a name": lambda t: t.inputs.update(z=t.inputs.pop("x")),
    "the order of rows": lambda t: t.inputs.update(x=t.inputs["x"][::-1].copy()),
    "a target": lambda t: setattr(t, "targets", np.array([0, 1, 1, 1])),
    "no targets": lambda t: setattr(t, "targets", None),
    "an id": lambda t: setattr(t, "ids", ["a", "b", "c", "e"]),
    "where ids end": lambda t: setattr(t, "ids", ["ab", "", "c", "d"]),
    "ids that are row numbers": lambda t: setattr(t, "ids", None),
    "a weight": lambda t: setattr(t, "weights", np.array([1.0, 1.0, 1.0, 3.0])),
    "no weights": lambda t: setattr(t, "weights", None),
    "a group's value": lambda t: t.groups.update(site=["1", "2", "1", "2"]),
    "a group's name": lambda t: t.groups.update(place=t.groups.pop("site")),
    "no groups": lambda t: t.groups.clear(),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_another_data_set_has_another_digest(change: str, opened: Callable[[Table], DatasetSource]) -> None:
    changed = small()
    CHANGES[change](changed)
    assert digest_of(opened(changed)) != digest_of(opened(small())) == reference_digest(small())


def refused(source: DatasetSource) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        validate(source, lambda *_: None)
    return caught.value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("part", "column"), [("inputs", "x"), ("targets", "y"), ("weights", "w")])
def test_values_that_are_not_finite_are_named(
    part: str, column: str, value: float, opened: Callable[[Table], DatasetSource]
) -> None:
    table = Table({"x": np.ones((40, 2, 3), np.float32)}, np.ones(40), None, np.ones(40))
    values = table.inputs["x"] if part == "inputs" else getattr(table, part)
    values[17] = value
    values[33] = np.nan
    error = refused(opened(table))
    assert error.reason is Reason.NON_FINITE_DATA
    assert f"{2 * values[0].size} values" in error.message
    assert f"the first {value} at row 17" in error.message
    assert (error.metadata["row"], error.metadata["count"]) == ("17", str(2 * values[0].size))


def test_the_column_behind_a_stacked_input_is_named(opened: Callable[[Table], DatasetSource]) -> None:
    values = np.zeros((5, 3))
    values[2, 1] = np.nan
    error = refused(opened(Table({"x": values}, stacked={"x": ("age", "income", "height")})))
    assert "1 value" in error.message
    assert "income" in error.message or "element [1]" in error.message  # arrays have no such columns


def test_weights_below_zero_or_all_zero(opened: Callable[[Table], DatasetSource]) -> None:
    weights = np.array([1.0, 0.0, -2.0, -3.0])
    error = refused(opened(Table({"x": np.zeros(4)}, weights=weights)))
    assert error.reason is Reason.DATASET_MALFORMED
    assert "row 2: the weight -2 is negative" in error.message
    assert "no weight but 0" in refused(opened(Table({"x": np.zeros(4)}, weights=np.zeros(4)))).message
    assert validate(opened(Table({"x": np.zeros(4)}, weights=np.eye(4)[1])), lambda *_: None).has_weights


def test_an_id_twice_is_named_with_both_rows(opened: Callable[[Table], DatasetSource]) -> None:
    ids = [f"row {row}" for row in range(50)]
    ids[41] = ids[12]
    ids[48] = ids[3]
    error = refused(opened(Table({"x": np.zeros(50)}, ids=ids)))
    assert error.reason is Reason.DUPLICATE_ID
    assert "rows 12 and 41 have the same id, 'row 12'" in error.message
    assert error.metadata == {"id": "row 12", "rows": "12,41"}


def test_an_empty_data_set(opened: Callable[[Table], DatasetSource]) -> None:
    source = opened(Table({"x": np.zeros((0, 3), np.float32)}, np.zeros(0), [], np.zeros(0)))
    assert len(source) == 0
    assert list(source.batches(None, 10)) == list(source.batches([], 10)) == []
    assert refused(source).reason is Reason.DATASET_EMPTY


def test_rows_without_values_are_refused(tmp_path: Path) -> None:
    for name in ("arrays", "npz", "npz-compressed"):
        files = Files(tmp_path)
        source = FORMATS[name].build(Table({"x": np.zeros((4, 0))}), files)
        with pytest.raises(InvalidArgument, match="hold no value"):
            open_source(source, files.resolve)


@pytest.mark.parametrize("shape", [(4, 2, 2), (4, 1, 1, 1)])
def test_a_target_has_one_axis_at_most(shape: tuple[int, ...], opened: Callable[[Table], DatasetSource]) -> None:
    with pytest.raises(InvalidArgument, match="a target is one number or one list of numbers"):
        opened(Table({"x": np.zeros(4)}, np.zeros(shape)))


def test_a_weight_is_one_number(opened: Callable[[Table], DatasetSource]) -> None:
    with pytest.raises(InvalidArgument, match="a weight is one number"):
        opened(Table({"x": np.zeros(4)}, weights=np.ones((4, 1))))


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_missing_columns_are_named_with_those_that_exist(kind: str, tmp_path: Path) -> None:
    files = Files(tmp_path)
    source = FORMATS[kind].build(small(), files)
    assert isinstance(source, FileSource)
    wrong = SchemaSpec({"x": ("pixels",)}, target="y", id="key", weight="weight")
    with pytest.raises(
        InvalidArgument, match=r"no column 'pixels', 'y'; it has 'key', 'label', 'site', 'weight', 'x\.column'"
    ) as error:
        open_source(FileSource(source.format, source.files, wrong), files.resolve)
    assert error.value.reason is Reason.COLUMN_NOT_FOUND


@pytest.mark.parametrize("kind", ["npz", "npz-compressed", "parquet"])
@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("int8", "int32"), "int32"),
        (("int64", "float32"), "float64"),
        (("bool", "float32"), "float32"),
        (("bool", "bool"), "bool"),
    ],
)
def test_stacked_columns_take_the_type_that_holds_them_all(
    kind: str, dtypes: tuple[str, str], expected: str, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    columns = {name: np.array([0, 1, 1], dtype) for name, dtype in zip(("a", "b"), dtypes, strict=True)}
    source = FORMATS[kind].build(Table(columns), files)
    assert isinstance(source, FileSource)
    spec = SchemaSpec({"x": ("b.column", "a.column", "b.column")})
    (block,) = open_source(FileSource(source.format, source.files, spec), files.resolve).batches(None, 10)
    values = np.stack([columns["b"], columns["a"], columns["b"]], axis=1).astype(expected)
    np.testing.assert_array_equal(block.inputs["x"], values, strict=True)


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_only_scalar_columns_are_stacked(kind: str, tmp_path: Path) -> None:
    files = Files(tmp_path)
    source = FORMATS[kind].build(small(), files)
    assert isinstance(source, FileSource)
    with pytest.raises(InvalidArgument, match=r"'x\.column' has rows of shape \(3,\) and cannot be stacked"):
        open_source(FileSource(source.format, source.files, SchemaSpec({"x": ("label", "x.column")})), files.resolve)


def test_blocks_do_not_share_writable_memory(case: tuple[Table, DatasetSource, str]) -> None:
    """Writing to what a source handed out must fail or change nothing that it hands out later."""
    table, source, _ = case
    for rows in (None, [1, 0]):
        block = next(source.batches(rows, 2))
        assert block.targets is not None
        for values in (*block.inputs.values(), block.targets):
            if values.flags.writeable:
                values[:] = 0
    assert_rows(source.batches(None, 500), table, np.arange(len(table)), 500)
