"""Linear heads, many in step: the rows that they see, their objectives, and what takes each to its minimum.

K heads are coefficients Θ (d, K, C), so that one product with the features serves them all.
"""
