"""Measure with a classifier whether the images of a conditional VAE show the class that they were made for.

    python results/cvae_classifier.py --out_dir=out/cvae_mnist_s1 --classifier=out/mnist_cnn_s1
    python results/cvae_classifier.py --out_dir=out/cvae_cifar10_s1 --classifier=out/cifar10_cnn_s1

The results are in results/cvae.md.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))    # the root of the repository

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import configurator  # noqa: E402
from core import machine  # noqa: E402
from core.checkpoint import build_model, find_checkpoint, load_checkpoint  # noqa: E402
from core.errors import UserError  # noqa: E402
from samples import load_split  # noqa: E402
from samples.images import random_other_label  # noqa: E402

out_dir = 'out/cvae_mnist'          # the run folder of the VAE
classifier = 'out/mnist_cnn'        # that of a classifier trained on the same data set
seed = 1337                         # of the latents and of the wrong labels
device = 'auto'                     # auto, cpu, cuda, mps


def fit_linear_probe(x, label, n_class):
    """Fit logistic regression to x (n, d) and label (n,); return a function from x (m, d) to labels (m,)."""
    mean = x.mean(0)
    std = x.std(0) + 1e-6
    weight = torch.zeros(x.size(1) + 1, n_class, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn='strong_wolfe')

    def logits(x):
        normalized = (x - mean) / std
        with_bias = F.pad(normalized, (0, 1), value=1.0)            # (n, d + 1)
        return with_bias @ weight

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(logits(x), label) + 1e-4 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)         # with gradients, also where they are off
    return lambda x: logits(x).argmax(1)


def load_classifier(checkpoint, vae_checkpoint, n_class, device):
    """Return the classifier of a checkpoint. Raises UserError if it does not fit the VAE's data set."""
    key = 'test.image'
    if checkpoint.get('data', {}).get(key) != vae_checkpoint['data'][key]:
        raise UserError(f'{classifier} was trained on other data than {out_dir}')
    net = build_model(checkpoint, device)
    if net.makes != 'classes' or net.config.n_class != n_class:
        raise UserError(f'{classifier} is not a classifier of {n_class} classes')
    return net


@torch.no_grad()
def measure(vae, net, test, train, generator):
    """Return {description: (n,) bool}: of each image, whether the classifier `net` finds the class it should.

    The last one is about a linear classifier of eps, sampled from the posterior, that learns on `train`.
    """
    n_class = vae.config.n_class

    def classify(image):
        return net.logits(image).argmax(1)

    asked = torch.arange(n_class, device=generator.device).repeat_interleave(1000)
    new = torch.cat([classify(vae.sample(label, generator)) for label in asked.split(250)])
    columns = []
    for rows in test.evaluation_batches(250):
        batch = test.batch(rows)
        image = batch['image']
        label = batch['label']
        wrong = random_other_label(label, n_class, generator)
        changed = vae.reconstruct(image, label, wrong)
        eps = vae.encode(image, label, generator)
        columns.append((label, wrong, classify(image), classify(changed), eps))
    label, wrong, of_image, of_changed, eps = (torch.cat(parts) for parts in zip(*columns))
    batches = [train.batch(rows) for rows in train.evaluation_batches(250)[:40]]
    train_eps = torch.cat([vae.encode(batch['image'], batch['label'], generator) for batch in batches])
    train_label = torch.cat([batch['label'] for batch in batches])
    probe = fit_linear_probe(train_eps, train_label, n_class)
    return {
        f'an image of {test.name} is classified as its class': of_image == label,
        'A: a new image is classified as the class asked for': new == asked,
        'B: with a wrong label, an image is classified as that label': of_changed == wrong,
        '   it is still classified as the true class': of_changed == label,
        'a linear classifier finds the class in the latent eps': probe(eps) == label}


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)
    device, *_ = machine.resolve(device)
    vae_checkpoint = load_checkpoint(find_checkpoint(out_dir))
    vae = build_model(vae_checkpoint, device)
    checkpoint = load_checkpoint(find_checkpoint(classifier))
    net = load_classifier(checkpoint, vae_checkpoint, vae.config.n_class, device)
    test = load_split(vae_checkpoint, 'test', ('image', 'label'), device)
    train = load_split(vae_checkpoint, 'train', ('image', 'label'), device)
    fractions = measure(vae, net, test, train, torch.Generator(device).manual_seed(seed))
    width = max(len(text) for text in fractions)
    for text, hits in fractions.items():
        print(f'{text.ljust(width)}  {hits.float().mean():.4f} of {len(hits):,}')
