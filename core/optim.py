"""The optimizers and the learning rate of a step.

Every parameter belongs to one optimizer. With optimizer = 'muon', Muon takes the matrices of the blocks and
AdamW takes the rest; else AdamW or SGD takes all. The learning rate is the same for all parameter groups:
the option learning_rate times lr_factor(step).
"""
import math
import re

import torch
from torch import nn

MATRIX_LAYERS = nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d


def lr_factor(step, schedule, warmup, max_iters, floor=0.0):
    """Return the fraction of the peak learning rate at `step`: a rise over `warmup` steps, then the schedule.

    cosine, linear and onecycle end at `floor`; inverse_sqrt does not fall below it; constant stays at 1.
    """
    if schedule == 'onecycle':
        return onecycle(step, warmup, max_iters, floor)
    # 1) a linear rise
    if step < warmup:
        return (step + 1) / (warmup + 1)
    # 2) from 0 after the warmup to 1 at the end
    progress = min((step - warmup) / max(max_iters - warmup, 1), 1)
    if schedule == 'cosine':                # Loshchilov & Hutter 2017
        fall = (1 + math.cos(math.pi * progress)) / 2       # from 1 to 0
        return floor + (1 - floor) * fall
    if schedule == 'linear':
        return floor + (1 - floor) * (1 - progress)
    if schedule == 'inverse_sqrt':          # Vaswani et al. 2017, equation 3
        return max(floor, math.sqrt((warmup + 1) / (step + 1)))
    return 1.0


def onecycle(step, warmup, max_iters, floor):
    """Return lr_factor of Smith & Topin 2018: torch's OneCycleLR with pct_start = warmup / max_iters."""
    first = 1 / 25                          # the factor of step 0
    peak_step = warmup - 1
    if step <= peak_step:
        angle = math.pi * step / max(peak_step, 1)          # from 0 to pi
        rise = (1 - math.cos(angle)) / 2                    # from 0 to 1
        return first + (1 - first) * rise
    steps_of_fall = max_iters - 1 - peak_step
    progress = min((step - peak_step) / max(steps_of_fall, 1), 1)
    fall = (1 + math.cos(math.pi * progress)) / 2           # from 1 to 0
    return floor + (1 - floor) * fall


def warmup_steps(warmup_iters, warmup_fraction, max_iters):
    """Return the number of warmup steps. If that is the whole run or more, return a tenth of the run."""
    warmup = warmup_iters or round(warmup_fraction * max_iters)
    return warmup if warmup < max_iters else max_iters // 10


def make_optimizers(net, optimizer, lr, weight_decay, betas, momentum, dtype, relative=False,
                    epsilon=1e-8):
    """Return a list of optimizers. Together they have every trainable parameter, each once.

    Weight decay is for the weights of linear and convolution layers, not for embeddings, biases and norms.
    Muon takes only what is inside an nn.ModuleList; put the blocks of a model into one. Of these it takes the
    weights of linear layers and ungrouped convolutions.
    """
    embeddings = {module.weight for module in net.modules() if isinstance(module, nn.Embedding)}
    matrices = {module.weight for module in net.modules() if isinstance(module, MATRIX_LAYERS)} - embeddings
    muon_matrices = in_blocks(net) if optimizer == 'muon' else set()
    muon = []
    decay = []
    no_decay = []
    for p in net.parameters():
        if not p.requires_grad:
            continue
        if p in muon_matrices:
            muon.append(p)
        elif p in matrices:
            decay.append(p)
        else:
            no_decay.append(p)
    groups = []
    if no_decay:
        groups.append({'params': no_decay, 'weight_decay': 0.0})
    if decay:
        groups.append({'params': decay, 'weight_decay': weight_decay})
    muon_groups = [{'params': muon}]
    if relative:
        groups = by_scale(net, groups)
        muon_groups = by_scale(net, muon_groups)
    if optimizer == 'sgd':
        return [torch.optim.SGD(groups, lr, momentum=momentum, nesterov=momentum > 0)]
    optimizers = []
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr, betas, epsilon, fused=True))
    if muon:
        product_dtype = torch.bfloat16 if dtype == 'bfloat16' else torch.float32
        optimizers.append(Muon(muon_groups, lr, weight_decay, momentum, product_dtype))
    return optimizers


def by_scale(net, groups):
    """Return groups of an optimizer with the `scale` that their learning rate is multiplied by.

    It is the root mean square of a group's initial weights, so that all weights change at one relative speed,
    as with Adafactor, by which T5 was trained (Shazeer & Stern 2018, section 8). Weights of one name and
    shape, such as the queries of all layers, are a group.
    """
    name_of = {p: name.split('.')[-2:] for name, p in net.named_parameters()}
    by_name = {}
    for i, group in enumerate(groups):
        for p in group['params']:
            key = i, *name_of[p], *p.shape
            by_name.setdefault(key, group | {'params': []})['params'].append(p)
    for group in by_name.values():
        squares = torch.stack([p.detach().square().mean() for p in group['params']])
        group['scale'] = max(squares.mean().sqrt().item(), 1e-3)    # weights may begin at 0
    return list(by_name.values())


def in_blocks(net):
    """Return what Muon takes: weights of linear layers and ungrouped convolutions inside an nn.ModuleList.

    Outside of it are the embeddings, the stem and the head, which Muon is not made for (Jordan et al. 2024).
    """
    weights = set()
    for blocks in net.modules():
        if not isinstance(blocks, nn.ModuleList):
            continue
        for module in blocks.modules():
            if isinstance(module, MATRIX_LAYERS) and getattr(module, 'groups', 1) == 1:
                weights.add(module.weight)
    return weights


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is made orthogonal, matrix by matrix (Jordan et al. 2024).

    An orthogonal update moves every direction of a matrix equally far. It is scaled to the size of AdamW's
    (Liu et al. 2025), so one learning rate serves both. A convolution is a matrix with a row for each index
    of the weight's first axis: an output channel, or an input channel of a transposed convolution. Unlike in
    torch.optim.Muon, all matrices of one shape are one batch of the matrix products.
    """

    def __init__(self, params, lr, weight_decay, momentum, dtype):
        super().__init__(params, {'lr': lr, 'weight_decay': weight_decay, 'momentum': momentum})
        self.dtype = dtype                      # of the matrix products

    @torch.no_grad()
    def step(self):
        """Update every parameter: shrink it by the weight decay, then subtract its orthogonal update."""
        for group in self.param_groups:
            by_shape = {}
            for p in group['params']:
                by_shape.setdefault(p.shape, []).append(p)
                if not self.state[p]:
                    self.state[p]['momentum_buffer'] = torch.zeros_like(p)
            for shape, weights in by_shape.items():
                gradients = [p.grad for p in weights]
                momenta = [self.state[p]['momentum_buffer'] for p in weights]
                torch._foreach_lerp_(momenta, gradients, 1 - group['momentum'])
                nesterov = torch._foreach_lerp(gradients, momenta, group['momentum'])
                matrices = torch.stack(nesterov).flatten(2)                     # (n, rows, columns)
                update = orthogonalize(matrices.to(self.dtype))
                scale = 0.2 * math.sqrt(max(matrices.shape[1:]))
                update = (update * scale).float()
                updates = list(update.view(-1, *shape))                         # n of the parameters' shape
                torch._foreach_mul_(weights, 1 - group['lr'] * group['weight_decay'])
                torch._foreach_sub_(weights, updates, alpha=group['lr'])


def orthogonalize(matrices):
    """Return roughly the nearest orthogonal matrices: (n, rows, columns) -> (n, rows, columns).

    Five Newton-Schulz iterations move all singular values to between 0.7 and 1.2 (Jordan et al. 2024).
    """
    tall = matrices.size(1) > matrices.size(2)
    X = matrices.mT if tall else matrices       # so X X^T is the smaller of the two Gram matrices
    norm = X.norm(dim=(1, 2), keepdim=True)     # (n, 1, 1), at least the largest singular value
    X = X / norm.clamp(min=1e-7)
    X = newton_schulz_gram(X) if X.dtype == torch.float32 else newton_schulz(X)
    return X.mT if tall else X


def newton_schulz(X):
    """Apply X <- P X five times, with P = a I + b A + c A^2 and A = X X^T: (n, rows, columns) matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)         # b A + c A^2
        X = torch.baddbmm(X, B, X, beta=a)                  # a X + B X
    return X


def newton_schulz_gram(X):
    """Return the same as newton_schulz, in 0.6 of the time for the matrices of a GPT's blocks.

    A first reading may skip it: it is only faster. After an iteration, A is P A P. So it is enough to iterate
    on A, which is smaller than X if X has more columns than rows, and to multiply X by the product of all P
    at the end. Use float32: A has the squares of the singular values; bfloat16 would lose the small ones.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    identity = torch.eye(X.size(1), dtype=X.dtype, device=X.device)
    A = X @ X.mT
    P = a * identity + torch.baddbmm(A, A, A, beta=b, alpha=c)
    product = P
    for _ in range(4):
        A = P @ A @ P
        P = a * identity + torch.baddbmm(A, A, A, beta=b, alpha=c)
        product = P @ product
    return product @ X


def layer_norms(net):
    """Return the norm of the gradient of each layer, {'norm of blocks.0': tensor, 'norm of head': tensor}.

    A layer is a child of the model, or of a list of them. Their squares add up to that of the whole.
    """
    grads = {}
    for name, weight in net.named_parameters():
        if weight.grad is not None:
            layer = re.match(r'[^.]+(\.\d+)?', name)[0]        # 'blocks.0' of 'blocks.0.mlp.fc.weight'
            grads.setdefault(layer, []).append(weight.grad)
    return {f'norm of {layer}': torch.stack(torch._foreach_norm(own)).norm() for layer, own in grads.items()}


def update_ema(ema_weights, live, ema, step):
    """Move the exponential moving averages towards the live weights, both {name: tensor}.

    Young averages forget faster, so that the initial weights leave no trace.
    """
    decay = min(ema, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema_weights.values()), list(live.values()), 1 - decay)


def swap(live, ema_weights):
    """Exchange the live weights and their moving averages; a second call undoes the first."""
    for name, average in ema_weights.items():
        weight = live[name]
        weight.data, average.data = average.data, weight.data
