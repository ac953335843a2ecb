"""Training-data attribution in torch: what each training row did to what the model says.

    exported program ─▶ Program ─▶ Objective ─▶ Curvature ─▶ Solver ─▶ Method ─▶ attribution.influence

Torch and arithmetic only: no file, no network, no serialisation. The caller says which device and dtype. Notation, here
and below: n training rows, m test rows, P selected parameters, C outputs, d features of a linear head, B rows of a
block, K columns.
"""
