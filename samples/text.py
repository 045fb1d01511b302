"""Continue a text with a language model.

    python sample.py --out_dir=out/shakespeare --start='ROMEO:' --num_samples=3
    python sample.py --out_dir=out/stdlib --start=FILE:prompt.txt --temperature=0
    echo 'def main(' | python sample.py --out_dir=out/stdlib --start=-
"""
import functools
import sys

import torch

from core import search
from core.errors import UserError
from data import tokenizers
from data.lines import unify_newlines
from samples import device_of, read_prompt

# --- options of text
start = ''              # the prompt; FILE:path to read it from a file, - from the standard input
num_samples = 0         # how many texts; 0: one
max_new_tokens = 500    # tokens in each of them
stop = ''               # a string that ends a text; it is left out
temperature = 0.8       # below 1 safer, above 1 wilder, 0 always the likeliest token
top_k = 0               # choose among the k likeliest tokens only; 0: among all
top_p = 1.0             # choose among the fewest tokens that together have this probability; 0: the likeliest
min_p = 0.0             # choose among tokens of at least this fraction of the likeliest's probability; 0: all
cache = True            # keep keys and values of earlier tokens; False: the same text, slower, to compare

LIMITS = {'num_samples': 10_000, 'max_new_tokens': 10**9,
          'temperature': 1e9, 'top_k': 10**9, 'top_p': 1, 'min_p': 1}


def problems(given):
    """Return a line for each mistake in the options: none beyond LIMITS."""
    return []


def make_sampler(net, seed):
    """Return the function that draws the next token, as the options say: logits (B, V) -> tokens (B,)."""
    generator = torch.Generator(device_of(net)).manual_seed(seed)
    return functools.partial(search.sample, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                             generator=generator)


def continuations(net, tokens, max_new_tokens, choose, decode, stop='', cache=True):
    """Yield, after every new token, a list of texts: how the model has continued each prompt so far.

    tokens: the prompts, (B, T) ids. choose: logits (B, V) -> tokens (B,). decode: ids -> text. A text ends
    before the string `stop`, unless that is empty; when all texts have ended no more tokens are generated.
    """
    new_ids = [[] for _ in tokens]
    ended = [False] * len(tokens)
    generate = search.generate_cached if cache else search.generate
    for next_tokens in generate(net, tokens, max_new_tokens, choose):
        for i, token in enumerate(next_tokens.tolist()):
            if not ended[i]:
                new_ids[i].append(token)
        texts = [decode(ids) for ids in new_ids]
        for i, text in enumerate(texts):
            if stop and stop in text:
                texts[i] = text[:text.index(stop)]
                ended[i] = True
        yield texts
        if all(ended):
            return


def print_growing(steps, stop):
    """Print a text while it grows: `steps` yields it, a list of one, after every new token.

    Hold back what the next token may still change: the first bytes of a character, the beginning of `stop`.
    """
    text = ''
    n_printed = 0
    for texts in steps:
        text = texts[0]
        n_uncertain = max(len(stop) - 1, 0)
        if text.endswith('\ufffd'):             # what bytes decode to that are not yet a character
            n_uncertain = max(n_uncertain, 1)
        n_certain = len(text) - n_uncertain
        if n_certain > n_printed:
            print(text[n_printed:n_certain], end='', flush=True)
            n_printed = n_certain
    print(text[n_printed:])


def show(net, checkpoint, folder, seed):
    """Print the prompt and its continuations. A single one on a terminal is printed while it grows."""
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    if tokenizer is None:
        raise UserError('the model has no tokenizer, so it cannot make text')
    prompt = unify_newlines(read_prompt(start))
    if not prompt:
        print('the prompt is empty: the text begins with the model', file=sys.stderr)
    ids = tokenizer.encode(prompt) or tokenizer.begin()
    block_size = net.config.block_size
    if len(ids) > block_size:
        print(f'the prompt has {len(ids)} tokens, the model sees the last {block_size} of them',
              file=sys.stderr)
    n = num_samples or 1
    tokens = torch.tensor([ids[-block_size:]] * n, device=device_of(net))           # (n, T)
    choose = make_sampler(net, seed)
    steps = continuations(net, tokens, max_new_tokens, choose, tokenizer.decode, stop, cache)
    if n == 1 and sys.stdout.isatty():
        print(prompt, end='', flush=True)
        print_growing(steps, stop)
        return
    texts = [''] * n
    for texts in steps:
        pass                                    # the last ones are complete
    rule = '-' * 80
    print(f'\n{rule}\n'.join(prompt + text for text in texts))


def preview(net, tokenizer, split):
    """Return a text of 400 tokens, without a prompt."""
    texts = ['']
    choose = make_sampler(net, seed=1337)
    tokens = torch.tensor([tokenizer.begin()], device=device_of(net))               # (1, T)
    for texts in continuations(net, tokens, 400, choose, tokenizer.decode):
        pass                                    # the last one is complete
    return texts[0]
