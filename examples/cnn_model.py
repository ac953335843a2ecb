"""The all-convolutional network of Koh & Liang (2017), section 4.2: 2,616 parameters; tanh has two derivatives."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sources import Images, kept

L2 = 1e-3
"""Over the weights, not the biases, as in the paper's code."""
EPOCHS, BATCH, LR = 150, 100, 3e-3
LAST_STEPS = 400


class AllConvolutional(nn.Module):
    """Images (B, 1, 28, 28) to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_down = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, 2)
        self.second, self.second_down = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, 2)
        self.third, self.mixed = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 10, 1)
        self.logits = nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        for layer in (self.first, self.first_down, self.second, self.second_down, self.third, self.mixed):
            x = torch.tanh(layer(x))
        return self.logits(x.mean(dim=(2, 3)))


def trained(name: str, images: Images, epochs: int = EPOCHS) -> AllConvolutional:
    """Return the network near a minimum: by Adam with a falling learning rate, then L-BFGS on all rows.

    The weights stay in the examples' cache: they take minutes.
    """
    settings = {"name": name, "rows": len(images), "l2": L2, "epochs": epochs, "batch": BATCH, "lr": LR, "version": 1}
    held = kept("all-convolutional", {**settings, "last": LAST_STEPS}, lambda: _train(images, epochs))
    module = AllConvolutional()
    module.load_state_dict({one: torch.from_numpy(array) for one, array in held.items()})
    return module.eval()


def _train(images: Images, epochs: int) -> Mapping[str, object]:
    torch.manual_seed(0)
    x, y = torch.from_numpy(images.channels()), torch.from_numpy(images.labels)
    module = AllConvolutional()

    def objective(rows: Tensor | slice) -> Tensor:
        weights = sum(p.square().sum() for name, p in module.named_parameters() if name.endswith("weight"))
        return nn.functional.cross_entropy(module(x[rows]), y[rows]) + L2 / 2 * weights

    adam = torch.optim.Adam(module.parameters(), LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            adam.zero_grad()
            objective(rows).backward()
            adam.step()
        schedule.step()
    last = torch.optim.LBFGS(
        module.parameters(),
        max_iter=LAST_STEPS,
        history_size=50,
        tolerance_grad=1e-6,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        last.zero_grad()
        value = objective(slice(None))
        value.backward()
        return value

    last.step(closure)
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}
