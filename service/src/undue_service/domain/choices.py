"""Words that jobs of several kinds choose by."""

from typing import Literal

Measurement = Literal["loss", "logit", "margin"]

Normalization = Literal["theta", "loss"]
"""Of `relatif`: by the size of a row's change of the parameters, or of its loss."""

Start = Literal["warm", "cold"]
"""Where training by a recipe begins: at the registered weights, or at the recipe's initial ones."""
