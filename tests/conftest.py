"""Real data, a real trained model and a real embedded service, made once."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

# What lands is decided on the same examples every time. UNDUE_FRESH_EXAMPLES=1 draws others, and finds what these miss.
settings.register_profile("fixed", derandomize=True, deadline=None)
if not os.environ.get("UNDUE_FRESH_EXAMPLES"):
    settings.load_profile("fixed")

# A run in the background of a shell ignores Ctrl-C, and what it starts would inherit that; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "2")  # of the runners and other children

L2 = 1e-2


def fit_softmax(X, y, l2, classes):
    """Return a float64 linear softmax model at the minimum of the mean loss plus l2/2 ‖θ‖², bias included."""
    import torch

    torch.manual_seed(0)
    inputs, targets = torch.as_tensor(X, dtype=torch.float64), torch.as_tensor(y)
    model = torch.nn.Linear(inputs.shape[1], classes, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=2000,
        tolerance_grad=1e-11,
        tolerance_change=0,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        penalty = sum((parameter**2).sum() for parameter in model.parameters())
        loss = torch.nn.functional.cross_entropy(model(inputs), targets) + l2 / 2 * penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


@pytest.fixture(scope="session")
def digits():
    """Digits, split, with a softmax regression trained on them."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    parts = train_test_split(X / 16.0, y, test_size=297, random_state=0, stratify=y)
    X_train, X_test, y_train, y_test = parts
    return SimpleNamespace(
        X_train=X_train,
        X_test=X_test,
        y_train=y_train,
        y_test=y_test,
        l2=L2,
        model=fit_softmax(X_train, y_train, L2, 10),
    )


@pytest.fixture(scope="session")
def client():
    """A client of an embedded service that lives as long as the tests."""
    import undue

    with undue.Client.local() as client:
        yield client


@pytest.fixture(scope="session")
def registered(client, digits):
    """The digits, registered, with the model as an nn.Module."""
    import torch

    import undue

    train = client.datasets.register("digits-train", undue.Arrays(inputs=digits.X_train, targets=digits.y_train))
    test = client.datasets.register("digits-test", undue.Arrays(inputs=digits.X_test, targets=digits.y_test))
    model = client.models.register(
        "digits-softmax",
        digits.model,
        objective=undue.Objective("cross_entropy", l2=digits.l2),
        sample=train,
        example_inputs=torch.as_tensor(digits.X_train[:2]),
    )
    return SimpleNamespace(train=train, test=test, model=model)


@pytest.fixture(scope="session")
def rng():
    """A generator with a fixed seed."""
    return np.random.default_rng(0)
