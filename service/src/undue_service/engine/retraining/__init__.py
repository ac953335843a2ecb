"""What really changes when training rows are removed: the model is trained again without them.

A linear head goes to its minimum by L-BFGS passes or Newton's method; any other model is trained by the recipe that it
was registered with. `retrain` is the way in.
"""
