"""A small network, recipes, and their training as anybody would write it with torch.optim."""

import copy
import math

import torch
from torch import nn

from undue_service.domain.specs import TrainingSpec

N = 23


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def spec(**changes):
    return TrainingSpec(**{"optimizer": "sgd", "lr": 0.1, "epochs": 3, "batch_size": 5, **changes})


def plain(module, x, y, w, kept, recipe, seed, divisor, l2=0.05, excluded="bias", order=None):
    """Train a module as anybody would, row by row masked or on its own rows; returns its parameters by name."""
    module = copy.deepcopy(module)
    named = dict(module.named_parameters())
    groups = [
        {"params": [p for name, p in named.items() if not name.endswith(excluded)], "weight_decay": l2},
        {"params": [p for name, p in named.items() if name.endswith(excluded)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    else:
        optimizer = torch.optim.Adam(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps)
    own = torch.arange(len(x)) if divisor == "kept_n" else kept.nonzero()[:, 0]
    size = recipe.batch_size or len(own)
    total = recipe.epochs * math.ceil(len(own) / size)
    schedule = {
        None: lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
        "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, total),
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, total),
    }[recipe.schedule](optimizer)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs):
        mixed = own[torch.randperm(len(own), generator=generator)]
        for at in range(0, len(own), size):
            index = mixed[at : at + size]
            losses = nn.functional.cross_entropy(module(x[index]), y[index], reduction="none")
            optimizer.zero_grad()
            ((losses * w[index] * kept[index]).sum() / len(index)).backward()
            optimizer.step()
            schedule.step()
    return {name: p.detach() for name, p in named.items()}


SPECS = {
    "sgd": spec(),
    "momentum": spec(momentum=0.9, lr=0.05),
    "adam": spec(optimizer="adam", lr=0.01, betas=(0.8, 0.95), eps=1e-6),
    "adam, cosine": spec(optimizer="adam", lr=0.02, schedule="cosine"),
    "momentum, linear": spec(momentum=0.9, schedule="linear"),
    "all rows in a step": spec(batch_size=None, epochs=8),
    "batches beyond the rows": spec(batch_size=100, epochs=4, schedule="cosine"),
}
