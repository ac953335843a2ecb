"""What a column is called whose file holds nothing else. The SDK names those it sends, the service those it finds."""

import re

_IDX_ENDING = re.compile(r"(?<=.)([-.]idx\d+-ubyte|\.idx)$", re.IGNORECASE)


def idx_column(file_name: str) -> str:
    """Return the column of an IDX file: its name without folders, `.gz`, `-idx3-ubyte`, `.idx3-ubyte` and `.idx`.

    `train-images-idx3-ubyte.gz` is the column `train-images`.
    """
    name = file_name.rpartition("/")[2]
    if len(name) > 3 and name.lower().endswith(".gz"):
        name = name[:-3]
    return _IDX_ENDING.sub("", name)
