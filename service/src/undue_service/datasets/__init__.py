"""The ways in for data: files of many kinds become rows in blocks, the same whatever the format.

    spec ─▶ DataFile: an artifact, or a file that must not have changed
              │
    open_source ─▶ arrays | npz | idx | csv | image_folder ─▶ TableSource ─┐   columns that are found by row: mapped in
              │                                                            │   place, or unpacked once into Scratch
              └──▶ parquet ─▶ ParquetSource ───────────────────────────────┤   row groups, decoded block by block
                                                                           ▼
                        Layout: which columns play which part, Transform ─▶ Columns ─▶ the engine's rows
                                                                           │
                                    validate ─▶ DatasetReport, with a digest that does not depend on the format

Data files are hostile until proven otherwise. They are parsed as data, nothing in them is unpickled or evaluated,
sizes are checked before memory is asked for, and whatever is wrong with one is a `domain.errors.Error`.
"""
