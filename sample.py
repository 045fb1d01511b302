"""What a trained model produces. It needs the run folder or checkpoint alone: no data set, no network.

    python sample.py --out_dir=out/shakespeare --start='ROMEO:' --num_samples=3
    python sample.py --out_dir=out/stdlib --start=FILE:prompt.txt --temperature=0
    echo 'def main(' | python sample.py --out_dir=out/stdlib --start=-
"""
import functools, os, sys
from pathlib import Path

import torch

import configurator, run, search
from configurator import Refused
from data.tokenizer import load

# --- what to read
out_dir = 'out/stdlib'  # a run folder (its best.pt) or a .pt file
start = '\n'            # what the text begins with; FILE:path reads it from a file, - from the standard input
stop = ''               # a string that ends a sample
# --- what to make
num_samples = 1         # samples, made together
max_new_tokens = 500    # tokens in each
temperature = 0.8       # below 1 safer, above 1 wilder, 0 always the likeliest token
top_k = 0               # only from the k likeliest tokens; 0: all
top_p = 1.0             # only from the likeliest tokens that together have this probability; 1: all, 0: the likeliest
min_p = 0.0             # only from tokens of at least this share of the likeliest's probability; 0: all
seed = 1337             # of the sampling
# --- machine
device = 'auto'         # auto, cpu, cuda, mps


def continuations(net, ids, max_new_tokens, choose, decode, stop='', cache=True):
    """Yield, after every new token, the texts with which the model has continued each of `ids` (lists of ids) so far. A text
    ends before `stop`, where that is not empty; all is over when every text has."""
    made, over = [[] for _ in ids], [False] * len(ids)
    for chosen in net.generate(ids, max_new_tokens, choose, cache) if max_new_tokens else ():
        for row, token in enumerate(chosen.tolist()):
            if not over[row]:
                made[row].append(token)
        so_far = [decode(tokens) for tokens in made]
        over = [bool(stop) and stop in text for text in so_far]
        yield [text[:text.index(stop)] if done else text for text, done in zip(so_far, over)]
        if all(over):
            break


def preview(net, meta):
    """A short sample for the log of a run: a few lines of text from a model that generates, else nothing."""
    if not hasattr(net, 'generate'):
        return ''
    tokenizer, training = load(meta['tokenizer']), net.training
    generator = torch.Generator(net.embed.weight.device).manual_seed(seed)
    choose = functools.partial(search.sample, temperature=temperature, generator=generator)
    net.eval()
    text = ['']
    for text in continuations(net, [tokenizer.encode('\n')], 400, choose, tokenizer.decode):
        pass
    net.train(training)
    return '-' * 80 + f'\n{text[0].strip()}\n' + '-' * 80


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    problems = [f'{name} must be at least {least}, got {globals()[name]}' for name, least in (
        ('num_samples', 1), ('max_new_tokens', 0), ('temperature', 0), ('top_k', 0), ('top_p', 0), ('min_p', 0))
        if globals()[name] < least]
    problems += [f'{name} must be at most 1, got {globals()[name]}' for name in ('top_p', 'min_p') if globals()[name] > 1]
    if problems:
        raise Refused(*problems)
    checkpoint = run.read(run.find(out_dir))
    device, *_ = configurator.resolve(device)
    net, tokenizer = configurator.build(checkpoint, device), load(checkpoint['tokenizer'])
    if not hasattr(net, 'generate'):
        raise Refused(f'{out_dir} is a {checkpoint["keys"]["model"]}; it generates no text')
    try:
        if start.startswith('FILE:'):
            start = Path(start[5:]).read_text(encoding='utf-8-sig')
        start = sys.stdin.read() if start == '-' else start
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f'--start: {error}', code=3)
    if not start:
        print('an empty prompt: starting on a new line', file=sys.stderr)
    ids, room = tokenizer.encode(start or '\n'), net.config.block_size
    if len(ids) > room:
        print(f'the prompt has {len(ids)} tokens, the model sees {room}: only its end is read', file=sys.stderr)
    generator = torch.Generator(device).manual_seed(seed)
    choose = functools.partial(search.sample, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, generator=generator)
    streams = num_samples == 1 and sys.stdout.isatty()
    try:
        print(start, end='', flush=True) if streams else None
        texts, shown = [''] * num_samples, 0
        for texts in continuations(net, [ids[-room:]] * num_samples, max_new_tokens, choose, tokenizer.decode, stop):
            held = len(texts[0]) - (len(stop) or 1 if texts[0].endswith('\ufffd') or stop else 0)      # may yet change
            if streams and held > shown:
                print(texts[0][shown:held], end='', flush=True)
                shown = held
        print(texts[0][shown:] if streams else f'\n{"-" * 80}\n'.join(start + text for text in texts))
    except BrokenPipeError:                 # nobody reads on: `| head`
        sys.stdout = open(os.devnull, 'w', encoding='utf-8')
