"""results/perplexity.py: its sum is that of a loop over tokens with all the context they may have."""
import importlib.util
import math

import numpy as np
import pytest
import torch

import data
from conftest import ROOT
from data.tokenizers import Words
from models.gpt import Config, Model

spec = importlib.util.spec_from_file_location('perplexity', ROOT / 'results/perplexity.py')
SCRIPT = importlib.util.module_from_spec(spec)
spec.loader.exec_module(SCRIPT)


def make_gpt(**fields):
    torch.manual_seed(0)
    return Model(Config(vocab_size=40, block_size=8, n_layer=2, n_head=2, n_embd=16, **fields)).eval()


@pytest.mark.parametrize('fields', [{}, {'n_frequent': 4}])
@pytest.mark.parametrize('stride', [1, 3, 8])
@torch.no_grad()
def test_each_token_is_scored_once_after_as_many_tokens_as_the_stride_leaves(fields, stride):
    net = make_gpt(**fields)
    tokens = torch.randint(0, 40, (30,))
    total = math.log(40)
    for i in range(1, 30):
        chunk_end = min(1 + stride * math.ceil(i / stride), 30)         # where the window of token i ends
        first = max(chunk_end - 1 - 8, 0)
        total -= net.logits(tokens[None, first:i])[0, -1].log_softmax(-1)[tokens[i]].item()
    assert SCRIPT.total_nll(net, tokens, stride) == pytest.approx(total, rel=1e-5)


@torch.no_grad()
def test_windows_side_by_side_are_the_loss_of_train():
    net = make_gpt()
    tokens = torch.randint(0, 40, (33,))                                # four windows of eight targets
    windows = torch.stack([tokens[i:i + 9] for i in range(0, 32, 8)])
    expected = math.log(40) + net(windows)['loss'].item()
    assert SCRIPT.total_nll(net, tokens, 8) == pytest.approx(expected, rel=1e-5)


def test_the_script_prints_perplexity_per_token_and_per_word(launch, tmp_path):
    tokens = {'tokens': np.arange(200) % 6}
    path = tmp_path / 'words'
    tokenizer = Words(['<unk>', '<eos>', 'a', 'b', 'c', 'd'])
    info = {'vocab_size': 6, 'words': {'train': 200, 'val': 200, 'test': 100}}
    splits = {'train': tokens, 'val': tokens, 'test': tokens}
    data.save(str(path), splits, {'tokens': 'stream'}, info, tokenizer.json())
    run = tmp_path / 'run'
    code, text = launch('train.py', f'--dataset={path}', f'--out_dir={run}', '--n_layer=1', '--n_head=1',
                        '--n_embd=8', '--block_size=16', '--batch_size=4', '--max_iters=2', '--device=cpu')
    assert code == 0, text
    code, text = launch('results/perplexity.py', f'--out_dir={run}', '--stride=4', '--device=cpu')
    assert code == 0, text
    per_token, per_word = (float(line.split()[-1]) for line in text.splitlines()[-2:])
    assert '200 tokens' in text and '100 words' in text
    assert per_word == pytest.approx(per_token**2, rel=0.01)            # two tokens are a word
    code, text = launch('results/perplexity.py', f'--out_dir={run}', '--stride=17')
    assert code == 2 and 'stride must be from 1 to block_size 16' in text
