"""EK-FAC written out with Kronecker products, from what hooks see in the original module, in float64."""

import torch
from torch import nn
from torch.nn import functional

from unit.engine.dense import row_gradients


def ekfac(objective, module, batch, weights=None):
    """Q diag(Λ) Qᵀ + l2 diag(mask), (P, P)."""
    [x] = batch.inputs.values()
    n, P, space = len(x), objective.space.dim, objective.space
    w = torch.ones(n, dtype=torch.float64) if weights is None else weights
    module = module.double().eval()
    seen = {}
    hooks = [
        part.register_forward_hook(lambda own, given, out: seen.setdefault(own, []).append((given[0], out)))
        for part in module.modules()
    ]
    f = module(x).reshape(n, -1)
    for hook in hooks:
        hook.remove()
    values, vectors = torch.linalg.eigh(objective.loss.curvature(f.detach(), batch.targets))
    root = vectors * values.clamp_min(0).sqrt()[:, None, :]
    found = torch.zeros(P, P, dtype=torch.float64)
    left = set(space.names)
    for name, part in module.named_modules():
        weight, bias = (f"{name}.{own}" if name else own for own in ("weight", "bias"))
        if not isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Embedding) or weight not in left:
            continue
        left.discard(weight)
        at = torch.arange(space.slice(weight).start, space.slice(weight).stop)
        calls = seen[part]
        deltas = [
            torch.autograd.grad((f * root[:, :, c]).sum(), [out for _, out in calls], retain_graph=True)
            for c in range(f.shape[1])
        ]
        if isinstance(part, nn.Embedding):
            at = at.reshape(1, part.num_embeddings, -1).mT
            hot = functional.one_hot(torch.cat([ids for ids, _ in calls], 1), part.num_embeddings).double()
            if part.padding_idx is not None:
                hot[:, :, part.padding_idx] = 0
            a = [hot]
            d = [[torch.cat(one, 1) * hot.sum(2, keepdim=True) for one in deltas]]
        else:
            groups = getattr(part, "groups", 1)
            at = at.reshape(groups, part.weight.shape[0] // groups, -1)
            a = torch.cat([patches(part, given) for given, _ in calls], 2)
            ds = [torch.cat([places(one, groups, part) for one in of_class], 2) for of_class in deltas]
            if bias in left and objective.l2[space.slice(bias)][0] == objective.l2[at[0, 0, 0]]:
                left.discard(bias)
                own = torch.arange(space.slice(bias).start, space.slice(bias).stop)
                at = torch.cat([at, own.reshape(groups, -1, 1)], 2)
                a = functional.pad(a, (0, 1), value=1.0)
            a, d = list(a.unbind(1)), [[one[:, g] for one in ds] for g in range(groups)]
        for inputs, of_group, coefficients in zip(a, d, at, strict=True):
            A = torch.einsum("b,bti,btj->ij", w, inputs, inputs)
            S = sum(torch.einsum("b,bto,btp->op", w, one, one) for one in of_group)
            Q = torch.kron(torch.linalg.eigh(S)[1], torch.linalg.eigh(A)[1])
            g = [torch.einsum("bto,bti->boi", one, inputs).flatten(1) for one in of_group]
            eigenvalues = sum(w @ (one @ Q).square() for one in g) / n
            flat = coefficients.reshape(-1)
            found[flat[:, None], flat] = Q @ torch.diag(eigenvalues) @ Q.T
    for name in left:
        flat = torch.arange(space.slice(name).start, space.slice(name).stop)
        for c in range(f.shape[1]):
            J = row_gradients(
                objective,
                batch,
                lambda theta, rows, c=c: (objective.outputs(theta, rows.inputs) * root[:, :, c]).sum(1),
            )[:, flat]
            found[flat[:, None], flat] += J.T @ (w[:, None] * J) / n
    return found.detach() + torch.diag(objective.l2)


def patches(part, x):
    """(B, groups, T, I / groups · kernel)."""
    if isinstance(part, nn.Linear):
        return x.reshape(len(x), 1, -1, x.shape[-1])
    if isinstance(part, nn.Conv1d):
        x, wide = x[:, :, None], lambda size: (1, size[0])
    else:
        wide = tuple
    kernel, dilation = wide(part.kernel_size), wide(part.dilation)
    if part.padding == "same":
        over = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        x = functional.pad(x, [over[1] // 2, over[1] - over[1] // 2, over[0] // 2, over[0] - over[0] // 2])
        padding = 0
    else:
        padding = (0, *part.padding) if isinstance(part, nn.Conv1d) else part.padding
    columns = functional.unfold(x, kernel, dilation, padding, wide(part.stride))
    return columns.reshape(len(x), part.groups, -1, columns.shape[2]).mT


def places(delta, groups, part):
    """(B, groups, T, O / groups)."""
    if isinstance(part, nn.Linear):
        return delta.reshape(len(delta), 1, -1, delta.shape[-1])
    return delta.reshape(len(delta), groups, delta.shape[1] // groups, -1).mT
