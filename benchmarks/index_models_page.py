"""What the page says of the factored index on models that are no MLP."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .render import table

LOOKED_THROUGH = 0.1
"""Share of the rows that is looked through for flipped labels, of which the verdict speaks."""


def section(record: Mapping[str, Any]) -> str:
    """Return the Markdown of a record that `benchmarks.index_models` wrote."""
    return "\n".join([_models(record), _loo(record["mail"]), _flips(record["flips"]), _cnn(record["cnn"])])


def _models(record: Mapping[str, Any]) -> str:
    mail, cnn = record["mail"], record["cnn"]
    rows = [["index", "rows", "parameters", "build s", "peak MiB", "bytes a row", "recall", "first call s", "p50 s"]]
    known = (
        ("MiniLM, the head, `exact`", mail["rows"], mail["head"]),
        ("MiniLM, head and last block, `ekfac`", mail["rows"], mail["block"]),
        ("CNN, all parameters, `ekfac`", cnn["rows"], cnn["index"]),
    )
    for name, n, one in known:
        figures = [f"{one['build_seconds']:.0f}", f"{one['build_peak_bytes'] / 2**20:,.0f}"]
        figures += [f"{one['bytes_per_row']:,.0f}", f"{one['recall']:.4f}"]
        figures += [f"{one['first_seconds']:.2f}", f"{one['p50']:.3f}"]
        rows.append([name, f"{n:,}", f"{one['parameters']:,}", *figures])
    text = f"""\
### Models that are no MLP

`python -m benchmarks.index_models`, through the SDK. MiniLM-L6 (22.6 million parameters, {mail["tokens"]} tokens) with
a softmax head, fitted to its minimum at l2 {mail["l2"]:g}, says which of SpamAssassin's mails are spam and is right
about {mail["accuracy"]:.1%} of {mail["test_rows"]} others. A CNN in ResNet-18's shape says what Fashion-MNIST shows,
{cnn["accuracy"]:.1%} right after {cnn["epochs"]} epochs. *Peak* is the whole process of the runner. A query runs the
model over the rows that may be listed, about a hundred, so that what an encoder costs is paid for each of them.
"""
    return f"{text}\n{table(rows)}"


def _loo(mail: Mapping[str, Any]) -> str:
    loo = mail["loo"]
    figures = {
        name: f"{loo[f'pearson_{name}']:.5f} ({loo[f'least_{name}']:.5f})" for name in ("all", "random", "listed")
    }
    return f"""\
Leave-one-out of MiniLM's head: `client.retrain` without each of {loo["removed"]} rows, and its Pearson with the scores
of the index, the mean over {loo["explained"]} test mails (the least): {figures["all"]} over all these rows,
{figures["random"]} over those {loo["random"]} drawn at random, {figures["listed"]} over the {loo["listed"]} that are
among the ten most helpful or harmful of a mail.
"""


def _flips(flips: Mapping[str, Any]) -> str:
    found = {name: np.array(values) for name, values in flips["found"].items()}
    rows = [["mails looked through", *(f"{share:.0%}" for share in flips["checked"])]]
    for name, title in (("self_influence", "by self-influence"), ("loss", "by training loss")):
        rows.append([title, *(f"{share:.1%}" for share in found[name].mean(axis=0))])
    by = 100 * (found["self_influence"] - found["loss"])
    spread = zip(by.mean(axis=0), by.min(axis=0), by.max(axis=0), strict=True)
    rows.append(["difference, points", *(f"{a:+.1f} ({b:+.1f} to {c:+.1f})" for a, b, c in spread)])
    at_half = by[:, flips["checked"].index(LOOKED_THROUGH)].mean()
    verdict = f"**Self-influence finds {'more' if at_half > 0 else 'no more'} than the training loss does.**"
    text = f"""\
Flipped labels: of {flips["rows"]:,} mails {flips["flipped"]:.0%} got the wrong label, the head was fitted to them, and
they are looked through by `client.self_influence` or by their training loss: the share of the flipped that is found,
the mean over {flips["seeds"]} draws. {verdict} Of a head on fixed features it is the squared residual times the
leverage, over one minus the leverage, and the leverage does not know the label.
"""
    return f"{text}\n{table(rows)}"


def _cnn(cnn: Mapping[str, Any]) -> str:
    agreement = cnn["agreement"]
    return f"""\
The CNN's index lists {agreement["listed_by_both"]:.1%} of the rows that `client.influence` with the same method lists
for {cnn["explained"]} test images ({cnn["offline_seconds"]:.0f} s as a job). Their scores differ by
{agreement["largest_difference"]:.0e} of the largest at most.
"""
