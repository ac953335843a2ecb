import pytest

from undue._columns import idx_column


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("train-images-idx3-ubyte.gz", "train-images"),
        ("train-labels-idx1-ubyte", "train-labels"),
        ("t10k-images.idx3-ubyte", "t10k-images"),
        ("images.idx", "images"),
        ("images.IDX.GZ", "images"),
        ("folder/images.idx", "images"),
        ("images-ubyte", "images-ubyte"),
        ("images", "images"),
        ("idx", "idx"),
        (".idx", ".idx"),
        (".gz", ".gz"),
        ("a.idx.idx", "a.idx"),
        ("a.csv.gz", "a.csv"),
    ],
)
def test_a_column_of_idx_is_called_as_its_file(name, column) -> None:
    assert idx_column(name) == column
