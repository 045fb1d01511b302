"""core/transfer.py: weights of one data set for another: rows are found by their tokens and classes."""
import dataclasses
import importlib
import re

import numpy as np
import pytest
import torch

import data
from conftest import TINY, events, image_data
from core import transfer
from core.errors import UserError
from data import bpe, tokenizers
from models import cnn, gpt
from test_unigram import spec


def characters(text):
    return {'kind': 'characters', 'characters': text}


def meta_of(text, **info):
    return {'tokenizer': characters(text) if text else None, 'info': info}


def checkpoint_of(net, text, name='gpt', **info):
    """Return a checkpoint of a net, of a data set with these characters or this info."""
    return {'model': net.state_dict(), 'keys': {'model': name}, 'config': dataclasses.asdict(net.config),
            **meta_of(text, **info)}


def small_gpt(vocab_size, **fields):
    return gpt.Model(gpt.Config(vocab_size=vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=8, **fields))


# --- what a row is called

def test_tokens_of_every_kind_of_tokenizer_have_names():
    assert transfer.token_names(None) == []
    assert transfer.token_names(characters('aé')) == [b'a', 'é'.encode()]
    assert transfer.token_names({'kind': 'bytes'}) == [bytes([i]) for i in range(256)]
    assert transfer.token_names({'kind': 'words', 'words': '<unk> <eos> ox'}) == [b'<unk>', b'<eos>', b'ox']
    pairs = bpe.train(['the theme of the thesis'] * 3, 264, n_sentinel=1)
    names = transfer.token_names(pairs.json())
    assert names[:3] == [b'id 0', b'id 1', b'\0'] and names[258:-1] == pairs.merges
    assert names[-1] == b'<extra_id_0>'
    pieces = tokenizers.unigram.Unigram(spec({'▁the': -2.0, 's': -5.0})).json()
    assert '▁the'.encode() in transfer.token_names(pieces)


@pytest.mark.parametrize('name, field, expected', [
    ('gpt', 'vocab_size', {'embed.weight': 0, 'head.weight': 0}), ('gpt', 'n_class', {}),
    ('transformer', 'vocab_size', {'embed_src.weight': 0, 'embed_tgt.weight': 0, 'head.weight': 0}),
    ('classifier', 'n_class', {'head.weight': 0, 'head.bias': 0}),
    ('cnn', 'n_class', {'head.weight': 0, 'head.bias': 0})])
def test_the_axis_of_the_rows_is_found_in_any_model(name, field, expected):
    module = importlib.import_module(f'models.{name}')
    names = {f.name for f in dataclasses.fields(module.Config)}
    sizes = {'vocab_size': 8, 'n_class': 8, 'n_embd': 8, 'n_head': 2, 'n_hidden': 8, 'n_layer': 1, 'width': 8}
    state = torch.get_rng_state()
    net = module.Model(module.Config(**{key: value for key, value in sizes.items() if key in names}))
    torch.set_rng_state(state)
    assert transfer.row_axes(net, field) == expected        # though every size is the same number
    assert torch.equal(torch.get_rng_state(), state)        # and no random number is drawn


# --- rows move

@pytest.mark.parametrize('tie', [False, True])
@pytest.mark.parametrize('ours', ['dcbxy', 'dc', 'abcdefgh'])
def test_known_tokens_take_their_rows_along_and_others_begin_anew(tie, ours):
    old = small_gpt(4, tie=tie)
    net = small_gpt(len(ours), tie=tie)
    initial = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    options = {'init_from': 'run', 'eval_only': False, 'model': 'gpt', 'dataset': 'x'}
    meta = meta_of(ours, vocab_size=len(ours))
    lines = transfer.load(net, checkpoint_of(old, 'abcd', vocab_size=4), options, meta)
    for name in 'embed.weight', 'head.weight':
        for row, character in enumerate(ours):
            expected = initial[name][row]
            if character in 'abcd':
                expected = old.state_dict()[name]['abcd'.index(character)]
            assert torch.equal(net.state_dict()[name][row], expected)
    assert torch.equal(net.blocks[0].mlp.fc.weight, old.blocks[0].mlp.fc.weight)
    new = len(set(ours) - set('abcd'))
    assert lines == [f'not taken from run: rows of {new} of {len(ours)} tokens, which it lacks, in '
                     'embed.weight, head.weight; the others are found by name']


def test_the_same_tokens_in_another_order_give_the_same_logits():
    old, net = small_gpt(4), small_gpt(4)
    options = {'init_from': 'run', 'eval_only': False, 'model': 'gpt', 'dataset': 'x'}
    transfer.load(net, checkpoint_of(old, 'abcd'), options, meta_of('cadb'))
    there = old.logits(torch.tensor([['abcd'.index(c) for c in 'badd']]))       # (1, 4, 4)
    here = net.logits(torch.tensor([['cadb'.index(c) for c in 'badd']]))
    assert torch.allclose(here, there[..., ['abcd'.index(c) for c in 'cadb']])


def test_classes_move_by_their_names():
    fields = {'width': 4, 'channels': 3, 'size': (12, 12)}
    old, net = cnn.Model(cnn.Config(n_class=3, **fields)), cnn.Model(cnn.Config(n_class=3, **fields))
    torch.nn.init.normal_(old.head.weight)
    options = {'init_from': 'run', 'eval_only': False, 'model': 'cnn', 'dataset': 'x'}
    theirs, ours = ['ant', 'bee', 'cat'], ['bee', 'cow', 'ant']
    checkpoint = checkpoint_of(old, '', 'cnn', classes=theirs)
    lines = transfer.load(net, checkpoint, options, meta_of('', classes=ours, n_class=3))
    assert torch.equal(net.head.weight[[0, 2]], old.head.weight[[1, 0]])
    assert not net.head.weight[1].any() and '1 of 3 classes' in lines[0]


def test_what_is_the_same_is_taken_as_it_is_without_a_line():
    old, net = small_gpt(4), small_gpt(4)
    options = {'init_from': 'run', 'eval_only': False, 'model': 'gpt', 'dataset': 'x'}
    assert transfer.load(net, checkpoint_of(old, 'abcd'), options, meta_of('abcd')) == []
    assert torch.equal(net.embed.weight, old.embed.weight)


# --- other options

def test_options_that_change_what_a_weight_means_are_named_though_all_shapes_fit():
    old, net = small_gpt(4), gpt.Model(gpt.Config(vocab_size=4, block_size=8, n_layer=1, n_head=1, n_embd=8,
                                                  pos='none', dropout=0.5))
    options = {'init_from': 'run', 'eval_only': False, 'model': 'gpt', 'dataset': 'x'}
    lines = transfer.load(net, checkpoint_of(old, 'abcd'), options, meta_of('abcd', vocab_size=4))
    assert lines == ['run has --n_head=2 --pos=rope: give these for the same model']


def test_if_nothing_fits_the_options_are_named_that_would():
    old, net = small_gpt(4), gpt.Model(gpt.Config(vocab_size=4, n_layer=2, n_head=4, n_embd=16))
    options = {'init_from': 'run', 'eval_only': False, 'model': 'gpt', 'dataset': 'x'}
    with pytest.raises(UserError, match='tensors do not fit') as error:
        transfer.load(net, checkpoint_of(old, 'abcd'), options, meta_of('abcd', vocab_size=4))
    assert 'run has --block_size=8 --n_layer=1 --n_head=2 --n_embd=8: give' in str(error.value)
    with pytest.raises(UserError, match='run is a gpt: give --model=gpt'):
        transfer.load(cnn.Model(cnn.Config()), checkpoint_of(old, 'abcd'), options | {'model': 'cnn'},
                      meta_of('', n_class=10))


# --- whole runs

def save_toy(path, characters):
    """Save the text of `toy` by a tokenizer that has the same characters in another order."""
    rng = np.random.default_rng(0)
    text = np.cumsum(rng.integers(1, 4, 3000)) % 11                 # ids of '\nabcdefghij'
    ids = np.array([characters.index(c) for c in '\nabcdefghij'])[text]
    data.save(str(path), {'train': {'tokens': ids[:2500]}, 'val': {'tokens': ids[2500:]}},
              {'tokens': 'stream'}, {'vocab_size': 11}, {'kind': 'characters', 'characters': characters})
    return path


def test_fine_tuning_on_the_same_text_with_other_ids_begins_where_the_run_ended(launch, toy, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--max_iters=100')
    assert code == 0, text
    reached = events(tmp_path / 'a', 'eval')[-1]['loss']
    other = save_toy(tmp_path / 'other', 'jihgfedcba\n')
    code, text = launch('train.py', *TINY, f'--dataset={other}', f'--init_from={tmp_path}/a', '--max_iters=1',
                        '--learning_rate=1e-9', f'--out_dir={tmp_path}/b')
    assert code == 0 and 'rows of 0 of 11 tokens' in text, text
    assert events(tmp_path / 'b', 'eval')[-1]['loss'] == pytest.approx(reached, abs=0.02)


def test_a_model_is_evaluated_on_other_data_whose_tokens_are_the_same(launch, toy, tmp_path):
    argv = ['train.py', '--eval_only', f'--out_dir={tmp_path}/a']
    assert launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a')[0] == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / 'a').iterdir()}
    meta = data.check(toy)
    ids = np.arange(900) % 11
    data.save(f'{tmp_path}/more', {'train': {'tokens': ids}, 'val': {'tokens': ids}}, {'tokens': 'stream'},
              meta['info'], meta['tokenizer'])
    code, text = launch(*argv, f'--dataset={tmp_path}/more')
    assert code == 0 and re.search(r'val at step \d+: loss', text), text
    assert text.split('loss')[1] != launch(*argv)[1].split('loss')[1]
    other = save_toy(tmp_path / 'other', 'jihgfedcba\n')
    code, text = launch(*argv, f'--dataset={other}')
    assert code == 3 and 'cannot be evaluated' in text and 'the tokens differ' in text, text
    image_data(tmp_path / 'images')
    code, text = launch(*argv, f'--dataset={tmp_path}/images')
    assert code == 2 and 'the model reads tokens' in text and 'Traceback' not in text, text
    assert {file.name: file.read_bytes() for file in (tmp_path / 'a').iterdir()} == before


def test_a_classifier_is_evaluated_on_other_images_by_its_own_mean(launch, tmp_path):
    splits = image_data(tmp_path / 'a')
    info = data.check(str(tmp_path / 'a'))['info']
    other = {'train': splits['train'], 'val': splits['test']}           # the same train, another val
    data.save(str(tmp_path / 'b'), other, info=info | {'mean': [0.9, 0.1, 0.5]})
    data.save(str(tmp_path / 'c'), other, info=info | {'n_class': 5})
    data.save(str(tmp_path / 'd'), other, info=info | {'classes': list('wxyz')})
    code, text = launch('train.py', '--model=cnn', '--width=4', '--batch_size=8', '--device=cpu',
                        '--max_iters=3', '--dtype=float32', f'--dataset={tmp_path}/a',
                        f'--out_dir={tmp_path}/run')
    assert code == 0, text
    argv = ['train.py', '--eval_only', f'--out_dir={tmp_path}/run', '--eval_split=train']
    expected = launch(*argv)
    assert expected[0] == 0 and 'train at step 3: loss' in expected[1]
    for name in 'b', 'd':               # the run has no names of classes: they cannot differ
        assert launch(*argv, f'--dataset={tmp_path}/{name}') == expected
    code, text = launch(*argv, f'--dataset={tmp_path}/c')
    assert code == 2 and 'n_class is 5 in the data set' in text, text
