"""Count what a classifier stores and computes: a table with a row for each run folder or config file.

    python results/cifar10_operations.py out/cifar10_cnn out/cifar10_mobinet
    python results/cifar10_operations.py config/train_cifar10_cnn.py 'config/train_cifar10_mobinet.py --k=1'

A multiply-add is one multiplication and one addition: two FLOPs. It is a binary operation if the weight and
the input have one bit each; a processor of 64 bits does 64 of these in one instruction, so the literature
counts operations = real multiply-adds + binary operations / 64 (Liu et al. 2018, arXiv:1808.00278).
"""
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))    # the root of the repository

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import configurator  # noqa: E402
from core.checkpoint import load, model_config  # noqa: E402
from core.errors import UserError  # noqa: E402

size = 32           # height and width of an image in pixels


def make_net(text):
    """Return the model in a run folder, or a new one of a config file and options, 'config/x.py --k=1'."""
    arguments = text.split()
    if not arguments[0].endswith('.py'):
        return load(text)
    settings = configurator.read_train(arguments)
    model = settings.options['model']
    config = model_config(model, settings.fields)
    return import_module(f'models.{model}').Model(config)


@torch.no_grad()
def count(net, size):
    """Return {column: number} of a classifier that sees one image of size x size pixels.

    The size in bits is that of all parameters, 32 bits each if they are not binary. It leaves out the running
    statistics of BatchNorm and the scale of binary weights, which can be folded into BatchNorm's parameters.
    """
    binary_weights = 0
    binary_operations = 0

    def add(convolution, inputs, output):
        nonlocal binary_weights, binary_operations
        weights = convolution.weight.numel()
        positions = output[0, 0].numel()                # each weight is used once at every pixel
        binary_weights += weights
        binary_operations += weights * positions

    for module in net.modules():
        if getattr(module, 'binary', False):            # a BinaryConv of models/mobinet.py
            module.register_forward_hook(add)
    counter = FlopCounterMode(display=False)
    with counter:
        net.eval().view_logits(torch.zeros(1, net.config.channels, size, size))
    multiply_adds = counter.get_total_flops() // 2
    real_operations = multiply_adds - binary_operations
    parameters = sum(p.numel() for p in net.parameters())
    return {
        'parameters': parameters,
        'binary weights': binary_weights,
        'size in bits': 32 * (parameters - binary_weights) + binary_weights,
        'multiply-adds': multiply_adds,
        'binary operations': binary_operations,
        'operations': real_operations + binary_operations // 64,
    }


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:], words=True)
    globals().update(settings.options)                  # size, as it was given
    if not settings.files:
        raise UserError('of which models? For example: config/train_cifar10_resnet18.py out/cifar10_mobinet')
    rows = [{'model': text} | count(make_net(text), size) for text in settings.files]
    print('| ' + ' | '.join(rows[0]) + ' |')
    print('| ' + ' | '.join('---' for _ in rows[0]) + ' |')
    for row in rows:
        cells = [cell if isinstance(cell, str) else f'{cell:,}' for cell in row.values()]
        print('| ' + ' | '.join(cells) + ' |')
