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
start = ''              # what the text begins with; FILE:path reads it from a file, - from the standard input
stop = ''               # a string that ends a sample
# --- what to make
num_samples = 1         # samples, made together
max_new_tokens = 500    # tokens in each
temperature = 0.8       # below 1 safer, above 1 wilder, 0 always the likeliest token
top_k = 0               # only from the k likeliest tokens; 0: all
top_p = 1.0             # only from the fewest tokens that together have this probability; 0: the likeliest
min_p = 0.0             # only from tokens of at least this share of the likeliest's probability; 0: all
seed = 1337             # of the sampling
# --- machine
device = 'auto'         # auto, cpu, cuda, mps


def continuations(net, ids, max_new_tokens, choose, decode, stop='', cache=True):
    """Yield, after every new token, the texts with which the model has continued each of `ids`, lists of ids.
    A text ends before `stop`, if that is not empty; all is over when every text has ended."""
    made, over = [[] for _ in ids], [False] * len(ids)
    for chosen in net.generate(ids, max_new_tokens, choose, cache):
        for tokens, token, done in zip(made, chosen.tolist(), over):
            tokens += [token] * (not done)
        texts = [decode(tokens) for tokens in made]
        over = [stop != '' and stop in text for text in texts]
        yield [text.partition(stop)[0] if done else text for text, done in zip(texts, over)]
        if all(over):
            return


def preview(net, meta):
    """A short sample for the record of a run, from a model that generates text; else nothing."""
    if not hasattr(net, 'generate') or not meta['tokenizer']:
        return ''
    tokenizer, training = load(meta['tokenizer']), net.training
    generator = torch.Generator(next(net.parameters()).device).manual_seed(seed)
    choose = functools.partial(search.sample, temperature=temperature, generator=generator)
    *_, (text,) = continuations(net.eval(), [tokenizer.begin()], 400, choose, tokenizer.decode)
    net.train(training)
    line = '-' * 80
    return f'{line}\n{text.strip()}\n{line}'


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).knobs)
    problems = [f'{name} must be from {least} to {most}, got {globals()[name]}' for name, least, most in (
                ('num_samples', 1, 10000), ('max_new_tokens', 0, 10**9), ('temperature', 0, 1e9),
                ('top_k', 0, 10**9), ('top_p', 0, 1), ('min_p', 0, 1), ('seed', 0, 2**63 - 1))
                if not least <= globals()[name] <= most]
    if problems:
        raise Refused(*problems)
    checkpoint = run.read(run.find(out_dir))
    device, *_ = configurator.resolve(device)
    net, tokenizer = configurator.build(checkpoint, device), load(checkpoint['tokenizer'])
    if not hasattr(net, 'generate') or not tokenizer:
        raise Refused(f'{out_dir} makes no text: its model cannot generate or it has no tokenizer')
    try:
        if start.startswith('FILE:'):
            start = Path(start[5:]).read_text(encoding='utf-8-sig')
        elif start == '-':
            start = sys.stdin.read().removeprefix('\ufeff')
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f'--start: {error}', code=3)
    if not start:
        print('an empty prompt: the model begins', file=sys.stderr)
    ids, room = tokenizer.encode(start) or tokenizer.begin(), net.config.block_size
    if len(ids) > room:
        print(f'the prompt has {len(ids)} tokens, of which the model sees the last {room}', file=sys.stderr)
    generator = torch.Generator(device).manual_seed(seed)
    choose = functools.partial(search.sample, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                               generator=generator)
    texts, shown, streams = [''] * num_samples, 0, num_samples == 1 and sys.stdout.isatty()
    try:
        print(start if streams else '', end='', flush=True)
        made = continuations(net, [ids[-room:]] * num_samples, max_new_tokens, choose, tokenizer.decode, stop)
        for texts in made:
            safe = len(texts[0]) - max(len(stop) - 1, texts[0].endswith('\ufffd'))     # the rest may change
            if streams and safe > shown:
                print(texts[0][shown:safe], end='', flush=True)
                shown = safe
        line = f'\n{"-" * 80}\n'
        print(texts[0][shown:] if streams else line.join(start + text for text in texts))
    except BrokenPipeError:                 # nobody reads on: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
