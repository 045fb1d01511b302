"""Fine-tuning on other data: the rows of a weight that stand for tokens or classes are found by name.

The embedding and the head have a row for each id. If the tokenizer of the data gives a token another id than
that of the checkpoint, its row moves there. Tokens and classes that the checkpoint lacks keep their initial
weights.
"""
import dataclasses

import torch

from core.checkpoint import evaluated_weights, load_weights
from core.errors import UserError
from data import tokenizers

WHAT = {'vocab_size': 'tokens', 'n_class': 'classes'}       # what a Config field counts


def token_names(json):
    """Return the list of a tokenizer's tokens as bytes, id -> token; `json` is what meta.json has of it.

    Tokens that stand for no text, padding and end, have names by their ids. Return [] for None.
    """
    tokenizer = tokenizers.load(json)
    names = []
    for attribute in ('tokens', 'words', 'characters'):         # each kind of tokenizer has one of them
        names = names or list(getattr(tokenizer, attribute, []))
    if isinstance(tokenizer, tokenizers.Bytes):
        names = [bytes([i]) for i in range(256)]
    names = [name.encode('utf-8', 'surrogatepass') if isinstance(name, str) else name for name in names]
    return [name or f'id {i}'.encode() for i, name in enumerate(names)]


def names_of_rows(tokenizer, info):
    """Return {Config field: names of its rows}, [] where they are unknown: of tokens and of classes."""
    return {'vocab_size': token_names(tokenizer), 'n_class': list(info.get('classes', []))}


def differences(checkpoint, meta):
    """Return {Config field: (names in a checkpoint, names in a data set)} where both are known and differ."""
    theirs = names_of_rows(checkpoint['tokenizer'], checkpoint.get('info', {}))
    ours = names_of_rows(meta['tokenizer'], meta['info'])
    found = {}
    for field in ours:
        if theirs[field] and ours[field] and theirs[field] != ours[field]:
            found[field] = (theirs[field], ours[field])
    return found


def report(checkpoint, meta):
    """Return '' or what differs, so that ids mean something else: 'the tokens differ'."""
    names = [WHAT[field] for field in differences(checkpoint, meta)]
    return f'the {" and the ".join(names)} differ' if names else ''


def row_axes(net, field):
    """Return {name of a weight: the axis with a row per token or class}: the one that grows with `field`."""
    if not hasattr(net.config, field):
        return {}
    larger = dataclasses.replace(net.config, **{field: getattr(net.config, field) + 1})
    with torch.device('meta'):                  # shapes without memory
        grown = type(net)(larger).state_dict()
    axes = {}
    for name, tensor in net.state_dict().items():
        for axis in range(tensor.ndim):
            if grown[name].size(axis) == tensor.size(axis) + 1:
                axes[name] = axis
    return axes


def move_rows(net, weights, checkpoint, meta):
    """Return {name: tensor} `weights` with their rows in the order of the data set's tokens and classes.

    Also return a line for tokens and one for classes, if they differ. A weight that does not fit for another
    reason stays as it is.
    """
    weights = dict(weights)
    initial = net.state_dict()
    lines = []
    for field, (theirs, ours) in differences(checkpoint, meta).items():
        row_of = {name: row for row, name in enumerate(theirs)}
        to = [row for row, name in enumerate(ours) if name in row_of]
        source = [row_of[ours[row]] for row in to]
        moved = []
        for name, axis in row_axes(net, field).items():
            if name not in weights or weights[name].ndim != initial[name].ndim:
                continue
            old = weights[name].movedim(axis, 0)                    # (rows, ...)
            new = initial[name].cpu().clone().movedim(axis, 0)      # (rows, ...)
            if old.shape[1:] == new.shape[1:] and len(old) >= len(theirs) and len(new) >= len(ours):
                new[to] = old[source].to(new.dtype)
                weights[name] = new.movedim(0, axis)
                moved.append(name)
        lines.append(f'rows of {len(ours) - len(to)} of {len(ours)} {WHAT[field]}, which it lacks, in '
                     f'{", ".join(moved)}; the others are found by name')
    return weights, lines


def other_options(net, checkpoint, options, info):
    """Return '' or a line: the options with which the model would be the checkpoint's.

    Some change no shape, only what a weight means, such as n_head. info: of the data set, which fills others.
    """
    model = checkpoint['keys']['model']
    if model != options['model']:
        return f'{options["init_from"]} is a {model}: give --model={model}'
    ours = dataclasses.asdict(net.config)
    given = []
    for name, value in checkpoint['config'].items():
        is_rate = isinstance(value, float)          # such as dropout: it changes no weight
        if name in ours and name not in info and not is_rate and ours[name] != value:
            given.append(f'--{name}={value}')
    return f'{options["init_from"]} has {" ".join(given)}: give these for the same model' if given else ''


def load(net, checkpoint, options, meta):
    """Load the weights of another run or model into `net`; return lines: what of them is not taken, and why.

    Raises UserError if no weight fits. For an evaluation all have to fit, and the tokens and classes as well.
    """
    source = options['init_from']
    weights = evaluated_weights(checkpoint)
    lines = []
    if not options['eval_only']:
        weights, lines = move_rows(net, weights, checkpoint, meta)
    elif report(checkpoint, meta):
        dataset = options['dataset']
        raise UserError(f'{source} cannot be evaluated on {dataset}: {report(checkpoint, meta)}', code=3)
    advice = other_options(net, checkpoint, options, meta['info'])
    try:
        mismatches = load_weights(net, weights, strict=options['eval_only'])
    except UserError as error:
        raise UserError(f'{source}: {error}', *advice.splitlines())
    not_taken = [f'not taken from {source}: {line}' for line in lines + mismatches]
    return not_taken + advice.splitlines()
