"""t-SNE (van der Maaten & Hinton 2008, "Visualizing Data using t-SNE"): points of many dimensions in two.

p_ij is how near points i and j are: a Gaussian around each point, so wide that about `perplexity` others
are in it. q_ij is the same of their places in the picture, by Student's t-distribution, whose heavy tails
leave room for those that are not near. The places are moved until q is like p, by gradient descent on the
Kullback-Leibler divergence KL(p || q).

Neighbours in the picture are mostly neighbours in truth. Sizes of clusters and distances between them mean
nothing.
"""
import math

import torch

from core.checkpoint import build_model, find_checkpoint, load_checkpoint
from core.errors import UserError
from data import tokenizers
from plots.figure import COLORS, new_figure, save_figure
from samples import class_names, load_split, random_rows

N_EXAGGERATED = 250     # iterations in which p is 12 times too large: clusters form, far apart
N_LABELS = 100          # tokens that are written into the picture


def squared_distances(x):
    """Return those between all rows of x (N, F): (N, N)."""
    square = x.square().sum(1)
    return (square[:, None] + square - 2 * x @ x.T).clamp_(min=0)


def joint_probabilities(x, perplexity):
    """Return p (N, N) of points x (N, F): symmetric, 0 on the diagonal, with the sum 1.

    p(j | i) is proportional to exp(-beta_i d_ij^2). beta_i is found by bisection, such that the entropy of
    p(. | i) is ln(perplexity).
    """
    distance2 = squared_distances(x.double())
    distance2.fill_diagonal_(math.inf)              # no point is its own neighbour
    nearest = distance2.amin(1, keepdim=True)
    finite = torch.where(distance2 == math.inf, 0.0, distance2)
    N = len(x)
    beta = torch.ones(N, 1, dtype=torch.double)
    beta_min = torch.zeros(N, 1, dtype=torch.double)
    beta_max = torch.full((N, 1), math.inf, dtype=torch.double)
    for _ in range(100):
        p = torch.exp(-beta * (distance2 - nearest))    # the nearest has 1: no row is 0 altogether
        total = p.sum(1, keepdim=True)
        p = p / total
        mean_distance2 = (finite * p).sum(1, keepdim=True)
        entropy = total.log() + beta * (mean_distance2 - nearest)
        entropy_error = entropy - math.log(perplexity)
        if entropy_error.abs().max() <= 1e-5:
            break
        too_wide = entropy_error > 0                    # beta has to grow
        beta_min = torch.where(too_wide, beta, beta_min)
        beta_max = torch.where(too_wide, beta_max, beta)
        middle = (beta_min + beta_max) / 2
        beta = torch.where(beta_max == math.inf, 2 * beta, middle)
    p = p + p.T
    return p / p.sum()


def kl_and_gradient(p, y, exaggeration=1):
    """Return KL(p || q) and its gradient (N, 2) with respect to the places y (N, 2) (equation 5).

    The gradient is that for `exaggeration` times p; the divergence is that of p.
    """
    w = 1 / (1 + squared_distances(y))              # (N, N)
    w.fill_diagonal_(0)
    q = w / w.sum()
    pull = (exaggeration * p - q) * w
    gradient = 4 * (pull.sum(1, keepdim=True) * y - pull @ y)
    kl = torch.special.xlogy(p, p / q.clamp(min=1e-12)).sum()
    return kl, gradient


def principal_components(x):
    """Return the first two of x (N, F), scaled to a standard deviation of 1e-4: (N, 2).

    From there no point is far from another, so any may become neighbours. The largest entry of each
    direction is positive, because their signs are arbitrary.
    """
    u, s, vh = torch.linalg.svd(x.double() - x.double().mean(0), full_matrices=False)
    largest = vh[:2].gather(1, vh[:2].abs().argmax(1, keepdim=True))
    y = u[:, :2] * s[:2] * largest.sign().T
    return 1e-4 * y / y[:, 0].std(correction=0)


def tsne(x, perplexity=30, iterations=1000, start=None):
    """Return places (N, 2) in the plane for points x (N, F), and their KL divergence.

    start: the first places; None: principal components, so that the same points give the same picture. Each
    coordinate has a gain of its own, which grows while its gradient keeps its sign. Raises UserError unless
    there are more than `perplexity` points.
    """
    N = len(x)
    if N <= perplexity:
        raise UserError(f'{N} points are too few for a perplexity of {perplexity}')
    p = joint_probabilities(x, perplexity).float()
    y = principal_components(x) if start is None else start
    y = y.float()
    rate = max(N / 48, 50)                          # as in scikit-learn: N / 12, for its gradient N / 12 / 4
    update = torch.zeros_like(y)
    gain = torch.ones_like(y)
    for i in range(iterations):
        is_early = i < N_EXAGGERATED
        _, gradient = kl_and_gradient(p, y, exaggeration=12 if is_early else 1)
        # Delta-bar-delta (Jacobs 1988): a coordinate that keeps its direction takes larger steps.
        turned = update * gradient > 0              # the last update went uphill
        gain = torch.where(turned, 0.8 * gain, gain + 0.2).clamp(min=0.01)
        momentum = 0.5 if is_early else 0.8
        update = momentum * update - rate * gain * gradient
        y = y + update
    return y, kl_and_gradient(p, y)[0].item()


@torch.no_grad()
def features(net, split, rows):
    """Return what the head of a classifier reads of `rows` of a split: (N, F).

    It is the mean over the views of an image or the parts of a text.
    """
    found = []
    hook = net.head.register_forward_pre_hook(lambda head, inputs: found[-1].append(inputs[0].float()))
    for i in range(0, len(rows), 100):
        batch = split.batch(rows[i:i + 100])
        batch.pop('label')
        found.append([])
        net.logits(**batch)
    hook.remove()
    return torch.cat([torch.stack(views).mean(0) for views in found])


def draw(path, n=1000, perplexity=30, seed=0, out='plot.png'):
    """Draw n images or texts as the classifier in `path` sees them, or the n first tokens of another model.

    Raises UserError if the model is neither a classifier nor one with an embedding of tokens, and for too few
    points.
    """
    if n < 2 or perplexity <= 1:
        raise UserError(f'expected at least 2 points and a perplexity above 1, got {n} and {perplexity}')
    checkpoint = load_checkpoint(find_checkpoint(path))
    net = build_model(checkpoint)
    figure = new_figure(8, 7)
    axes = figure.subplots()
    if net.makes in ('classes', 'labels'):
        field = 'image' if net.makes == 'classes' else 'text'
        split = load_split(checkpoint, '', [field, 'label'], block_size=getattr(net.config, 'block_size', 0))
        rows = random_rows(split, n, seed)
        places, kl = tsne(features(net, split, rows), perplexity)
        label = split.batch(rows)['label']
        for i, name in enumerate(class_names(checkpoint, net.config.n_class)):
            x, y = places[label == i].T
            axes.scatter(x, y, s=6, color=color_of(i), label=str(name))
        axes.legend(frameon=False, fontsize='small', markerscale=2)
        what = f'{len(rows):,} rows of {split.name}, as the last layer sees them'
    elif checkpoint['tokenizer']:
        tokenizer = tokenizers.load(checkpoint['tokenizer'])
        embed = net.embed_src if hasattr(net, 'embed_src') else net.embed
        embedding = embed.weight.detach().float()[:n]
        places, kl = tsne(embedding, perplexity)
        axes.scatter(*places.T, s=3, color=COLORS[0], alpha=0.4)
        step = max(1, len(places) // N_LABELS)
        for i in range(0, len(places), step):
            name = tokenizer.decode([i])
            axes.text(*places[i].tolist(), name.strip() or repr(name), size=6, parse_math=False)
        what = f'the embeddings of the first {len(embedding):,} tokens'
    else:
        raise UserError(f'{path} has neither classes nor tokens: there is nothing to draw')
    axes.set(xticks=[], yticks=[])
    axes.set_title(f'{path}: {what}; perplexity {perplexity}, KL {kl:.2f}', loc='left', fontsize='medium',
                   parse_math=False)
    save_figure(figure, out)


def color_of(i):
    """Return the color of class i: those of Okabe and Ito, then others."""
    more = ['#999999', '#8c564b', '#bcbd22']
    return [*COLORS, *more][i % (len(COLORS) + len(more))]
