"""The ways in for data: arrays, NPZ archives and Parquet files become rows in blocks, the same whatever the format.

    open_source(spec) ─▶ DatasetSource (arrays | npz | parquet) ─▶ Columns ─▶ the engine's rows
                              └─▶ validate ─▶ DatasetReport, with a digest that does not depend on the format

Data files are hostile until proven otherwise. They are parsed as data, nothing in them is unpickled or evaluated,
sizes are checked before memory is asked for, and whatever is wrong with one is a `domain.errors.Error`.
"""
