"""Measure the perplexity of a GPT on a whole split, per token and per word.

    python results/perplexity.py --out_dir=out/wikitext2                # no overlap, as in train.py
    python results/perplexity.py --out_dir=out/wikitext2 --stride=32    # each token has a long context
    python results/perplexity.py --out_dir=hf:gpt2 --dataset=wikitext2_gpt2

A window of block_size tokens moves on by `stride`, and the tokens that are new in it are scored: each token
once, after more than block_size - stride tokens, but at the beginning of the split. The weights stay
as they are: no dynamic evaluation. Published perplexities of WikiText-2 are per word, exp(nll of the split /
its words), which compares between tokenizers. The first token has nothing before it and costs ln vocab_size.
"""
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))    # the root of the repository

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import configurator  # noqa: E402
import data  # noqa: E402
from core import machine  # noqa: E402
from core.checkpoint import build_model, find_checkpoint, load_checkpoint  # noqa: E402
from core.errors import UserError  # noqa: E402
from samples import load_split  # noqa: E402

out_dir = 'out/wikitext2'           # the run folder
dataset = ''                        # empty: that of the run
split = 'test'                      # val or test
stride = 0                          # tokens by which a window moves on; 0: block_size
device = 'auto'                     # auto, cpu, cuda, mps


@torch.no_grad()
def total_nll(net, tokens, stride):
    """Return the sum of -ln p(token) over tokens (N,), in nats."""
    total = math.log(net.config.vocab_size)                     # of the first token
    for begin in range(1, len(tokens), stride):                 # of the tokens that are scored
        end = min(begin + stride, len(tokens))
        first = max(end - 1 - net.config.block_size, 0)
        window = tokens[None, first:end]                        # (1, T + 1)
        logits = net.logits(window[:, :-1])[0, begin - end:]    # (n, vocab_size)
        total += F.cross_entropy(logits, tokens[begin:end], reduction='sum').item()
    return total


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)
    device, *_ = machine.resolve(device)
    checkpoint = load_checkpoint(find_checkpoint(out_dir))
    net = build_model(checkpoint, device)
    if net.makes != 'text':
        raise UserError(f'{out_dir} has no language model, but one that makes {net.makes}')
    stride = stride or net.config.block_size
    if not 1 <= stride <= net.config.block_size:
        raise UserError(f'stride must be from 1 to block_size {net.config.block_size}, got {stride}')
    if dataset:
        reader = data.load_split(dataset, split, ['tokens'], net.config.block_size, device)
    else:
        reader = load_split(checkpoint, split, ['tokens'], device, net.config.block_size)
    tokens = data.readers.to_int64(reader.arrays['tokens']).to(device)      # (N,)
    nll = total_nll(net, tokens, stride)
    print(f'{split}: {nll:,.0f} nats, {len(tokens):,} tokens, perplexity {math.exp(nll / len(tokens)):.2f}')
    info = data.check(dataset)['info'] if dataset else checkpoint.get('info', {})
    words = info.get('words')
    if words:
        print(f'{words[split]:,} words, perplexity per word {math.exp(nll / words[split]):.2f}')
