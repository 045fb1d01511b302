"""The loop: what a step is, and that a kill, other ranks, micro-batches or evaluations do not change it."""
import inspect
import math
import shlex
import shutil
import signal
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

import configurator
import data
import train
from conftest import ROOT, TINY, events, losses, until
from core import optim
from core.checkpoint import load, load_checkpoint, save_checkpoint
from core.errors import UserError
from core.facts import command
from data import bpe, pairs, texts
from models import gpt
from conftest import image_data


# --- schedules and optimizers

def test_the_gradients_of_the_layers_add_up_to_that_of_the_model(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--log_interval=2', '--grad_clip=0.01']
    code, text = launch('train.py', *argv)
    assert code == 0, text
    lines = events(tmp_path / 'a')
    assert [line['step'] for line in lines] == list(range(2, 21, 2))
    for line in lines:
        assert list(line['layer_norms']) == ['embed', 'blocks.0', 'blocks.1', 'head']
        total = sum(norm ** 2 for norm in line['layer_norms'].values())
        assert total == pytest.approx(line['grad_norm'] ** 2, rel=1e-5)         # before clipping, both
    code, text = launch('plot.py', '--what=gradients', f'{tmp_path}/a', f'--out={tmp_path}/x.png')
    assert code == 0 and (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG'), text


def test_onecycle_is_torchs():
    total, warmup, peak, floor = 200, 60, 0.3, 1e-3
    p = nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([p], peak)
    theirs = torch.optim.lr_scheduler.OneCycleLR(sgd, peak, total, pct_start=warmup / total,
                                                 cycle_momentum=False, final_div_factor=1 / 25 / floor)
    for step in range(total):
        ours = peak * optim.lr_factor(step, 'onecycle', warmup, total, floor)
        assert ours == pytest.approx(sgd.param_groups[0]['lr'], rel=1e-9), step
        sgd.step(), theirs.step()


def test_cosine_is_torchs_after_the_warmup():
    p = nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([p], 1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 90, eta_min=0.1)
    for step in range(10, 100):
        ours = optim.lr_factor(step, 'cosine', 10, 100, 0.1)
        assert ours == pytest.approx(sgd.param_groups[0]['lr'], abs=1e-12)
        sgd.step(), theirs.step()


@pytest.mark.parametrize('schedule', ['cosine', 'linear', 'inverse_sqrt', 'constant', 'onecycle'])
def test_a_schedule_rises_to_one_and_falls(schedule):
    factors = [optim.lr_factor(step, schedule, 10, 100) for step in range(100)]
    assert all(a < b for a, b in zip(factors[:9], factors[1:10]))
    assert max(factors) == pytest.approx(1) and min(factors) >= 0
    assert all(a >= b for a, b in zip(factors[10:], factors[11:]))
    shortest = [optim.lr_factor(step, schedule, 0, 1) for step in range(3)]     # it has a rate too
    assert all(0 <= factor <= 1 for factor in shortest)


def test_inverse_sqrt_is_the_papers():
    peak, warmup = 512**-0.5 * 4000**-0.5, 4000     # Vaswani et al. 2017, equation 3: its steps count from 1
    for step in 1, 100, 3999, 4001, 10000:
        theirs = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        assert peak * optim.lr_factor(step - 1, 'inverse_sqrt', warmup - 1, 10**5) == pytest.approx(theirs)


@pytest.mark.parametrize('optimizer', ['adamw', 'sgd', 'muon'])
@pytest.mark.parametrize('tie', [False, True])
def test_every_parameter_is_in_one_group(optimizer, tie):
    net = gpt.Model(gpt.Config(n_layer=2, n_embd=8, n_head=2, pos='learned', tie=tie))
    made = optim.make_optimizers(net, optimizer, 1e-3, 0.1, (0.9, 0.99), 0.9, 'float32')
    groups = [g for o in made for g in o.param_groups]
    owned = [p for g in groups for p in g['params']]
    assert len(owned) == len({id(p) for p in owned}) == len(list(net.parameters()))
    decayed = {id(p) for g in groups if g['weight_decay'] for p in g['params']}
    assert decayed == {id(p) for n, p in net.named_parameters() if p.dim() == 2 and 'embed' not in n}


def test_a_larger_epsilon_changes_weights_with_small_gradients_less():
    net = nn.Linear(2, 1, bias=False)
    before = net.weight.detach().clone()
    adamw, = optim.make_optimizers(net, 'adamw', 1.0, 0.0, (0.9, 0.99), 0.9, 'float32', epsilon=1e-6)
    net.weight.grad = torch.tensor([[1.0, 1e-6]])
    adamw.step()
    assert torch.allclose(before - net.weight, torch.tensor([[1.0, 0.5]]), atol=1e-5)   # g / (|g| + epsilon)


@pytest.mark.parametrize('weight_decay', [0.0, 0.1])
def test_muon_is_torchs_muon(weight_decay):
    torch.manual_seed(0)
    shapes = [(16, 16), (16, 48), (16, 16), (64, 16), (16, 48)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    one = optim.Muon(ours, 0.1, weight_decay, 0.9, torch.float32)
    other = torch.optim.Muon(theirs, 0.1, weight_decay, 0.9, adjust_lr_fn='match_rms_adamw')     # in bfloat16
    before = [p.detach().clone() for p in ours]
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        one.step()
        other.step()
    for p, q, old in zip(ours, theirs, before):
        assert (p - q).norm() < 0.02 * (p - old).norm()


def test_orthogonal_brings_singular_values_close_to_one():
    for shape in (3, 8, 32), (2, 32, 8), (1, 16, 16):
        values = torch.linalg.svdvals(
            optim.orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
        assert values.min() > 0.6 and values.max() < 1.3
    assert not optim.orthogonalize(torch.zeros(1, 4, 4)).any()


@pytest.mark.parametrize('shape', [(2, 8, 8), (1, 8, 32), (3, 32, 8)])
def test_newton_schulz_by_the_gram_matrix_is_newton_schulz(shape):
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(*shape[:2], 4, generator=generator)
    right = torch.randn(shape[0], 4, shape[2], generator=generator)
    for x in torch.randn(shape, generator=generator), left @ right:         # and of low rank
        x = x / x.norm(dim=(1, 2), keepdim=True)
        assert torch.allclose(optim.newton_schulz_gram(x), optim.newton_schulz(x), atol=1e-3)
        precise = optim.newton_schulz(x.double())
        assert (optim.newton_schulz_gram(x) - precise).abs().max() < 1e-3


def test_to_muon_a_filter_is_a_row():
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(6, 4, 3, 3))
    rows = nn.Parameter(filters.detach().flatten(1).clone())
    filters.grad = torch.randn(6, 4, 3, 3)
    rows.grad = filters.grad.flatten(1).clone()
    for p in filters, rows:
        optim.Muon([p], 0.1, 0.1, 0.9, torch.float32).step()
    assert torch.allclose(filters.flatten(1), rows, atol=1e-6)


@pytest.mark.parametrize('name, fields, rest', [
    ('cnn', {}, {'head.weight'}), ('resnet', {}, {'conv.weight', 'head.weight'}),
    ('unet', dict(width=2, depth=1, down='stride'), {'head.weight'}),
    ('unet', dict(width=2, depth=1, up='upsample'), {'head.weight'})])
def test_muon_takes_the_filters_of_blocks(name, fields, rest):
    module = import_module(f'models.{name}')
    net = module.Model(module.Config(**fields))
    _, muon = optim.make_optimizers(net, 'muon', 1e-3, 0.0, (0.9, 0.99), 0.9, 'float32')
    taken = {id(p) for p in muon.param_groups[0]['params']}
    assert {n for n, p in net.named_parameters() if p.dim() > 1 and id(p) not in taken} == rest


@pytest.mark.parametrize('optimizer', ['adamw', 'sgd', 'muon'])
def test_a_relative_learning_rate_is_scaled_by_the_root_mean_square_of_the_initial_weights(optimizer):
    net = gpt.Model(gpt.Config(n_layer=2, n_head=2, n_embd=16))
    nn.init.zeros_(net.head.weight)
    name_of = {p: name for name, p in net.named_parameters()}
    made = optim.make_optimizers(net, optimizer, 1e-3, 0.1, (0.9, 0.99), 0.9, 'float32', relative=True)
    seen = []
    for group in (group for opt in made for group in opt.param_groups):
        names = {name_of[p].split('.', 2)[-1] for p in group['params']}
        assert len(names) == 1                              # the same matrix of every block
        weights = torch.cat([p.detach().flatten() for p in group['params']])
        expected = max(weights.square().mean().sqrt().item(), 1e-3)
        assert group['scale'] == pytest.approx(expected, rel=1e-5)
        seen += group['params']
    assert len(seen) == len(set(seen)) == len(name_of)


def test_muon_takes_the_matrices_of_the_blocks_only():
    net = gpt.Model(gpt.Config(n_layer=2, n_embd=8, n_head=2))
    _, muon = optim.make_optimizers(net, 'muon', 1e-3, 0.0, (0.9, 0.99), 0.9, 'float32')
    assert [id(p) for p in muon.param_groups[0]['params']] == [id(p) for p in net.blocks.parameters()]


# --- one step

class Words(nn.Module):
    """A toy for ragged rows: guesses a row's label from the mean of its words, ignoring padding."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 16), nn.Linear(16, 3)

    def forward(self, text, label):
        real = (text > 0).float()
        mean = (self.embed(text) * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        nll = nn.functional.cross_entropy(self.out(mean), label, reduction='none')
        weight = real.sum(1)                        # counts differ from row to row, as tokens do
        return {'loss': (nll * weight).sum(), 'count': weight.sum()}


def ragged(path):
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 50, rng.integers(1, 30)) for _ in range(64)]
    labels = rng.integers(0, 3, 64).astype(np.uint8)
    data.save(str(path), {'train': {'text': rows, 'label': labels}}, kinds={'text': 'ragged'},
              info={'vocab_size': 50, 'n_class': 3})
    return data.load_split(str(path), 'train', ['text', 'label'])


@pytest.mark.parametrize('scale', [1.0, 1024.0])
@pytest.mark.parametrize('kind', ['ragged', 'stream'])
def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path, toy, kind, scale):
    torch.manual_seed(0)
    if kind == 'ragged':
        split, net = ragged(tmp_path / 'words'), Words()
    else:
        split = data.load_split(toy, 'train', ['tokens'], 16)
        net = gpt.Model(gpt.Config(vocab_size=11, block_size=16, n_layer=1, n_embd=8, n_head=2))
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    rows, found = split.rows(0, 8, 1), []
    for size in 8, 4, 1:
        net.zero_grad()
        parts, plain = rows.reshape(-1, size), torch.autocast('cpu', enabled=False)
        count = train.gradients(net, split, parts, None, plain, scale, {})['count']
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]) / (count * scale).float())
    for other in found[1:]:
        assert (other - found[0]).abs().max() < 1e-6
    net.zero_grad()
    sums = net(**split.batch(rows))
    (sums['loss'] / sums['count']).backward()       # what the gradient is defined to be
    assert (torch.cat([p.grad.flatten() for p in net.parameters()]) - found[0]).abs().max() < 1e-6


def test_evaluation_is_exact_for_a_short_last_batch(toy):
    split = data.load_split(toy, 'val', ['tokens'], 16)
    net = gpt.Model(gpt.Config(vocab_size=11, block_size=16, n_layer=1, n_embd=8, n_head=2))
    nn.init.normal_(net.head.weight)
    plain = torch.autocast('cpu', enabled=False)
    found = [train.evaluate(net, split, size, plain, 0, lambda: 0)['loss'] for size in (1, 7, 64)]
    tokens = torch.from_numpy(np.fromfile(f'{toy}/val.tokens.bin', '<u2').astype(np.int64))
    nll = [net(tokens[i:i + 17][None])['loss'].item() for i in range(0, len(tokens) - 1, 16)]
    assert found == pytest.approx([sum(nll) / (len(tokens) - 1)] * 3, rel=1e-6)
    assert net.training


def test_swap_is_its_own_inverse():
    weights, average = {'w': nn.Parameter(torch.ones(2))}, {'w': torch.zeros(2)}
    optim.swap(weights, average)
    assert weights['w'].tolist() == [0, 0] and average['w'].tolist() == [1, 1]
    optim.swap(weights, average)
    assert weights['w'].tolist() == [1, 1]


# --- whole runs

def test_a_run_learns_and_leaves_a_record(launch, toy, tmp_path):
    out = tmp_path / 'run'
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={out}', '--max_iters=60']
    code, text = launch('train.py', *argv, '--patience=50')
    assert code == 0, text
    config, *_ = events(out, 'config')
    assert config['keys']['max_iters'] == 60 and config['config']['n_embd'] == 16 and config['parameters'] > 0
    first, *_, last = events(out)
    assert first['loss'] == pytest.approx(math.log(11), abs=0.05) and last['loss'] < 1.6
    cost = {'seconds', 'rows_per_second', 'memory'}
    assert {'step', 'epoch', 'loss', 'objective', 'lr', 'grad_norm', *cost} <= last.keys()
    assert [line['step'] for line in events(out, 'eval')] == [10, 20, 30, 40, 50, 60]
    best = load_checkpoint(out / 'best.pt')['best']
    assert best['value'] == min(line['loss'] for line in events(out, 'eval'))
    assert 'next: python sample.py' in text.splitlines()[-1]
    before = (out / 'log.jsonl').read_bytes()
    code, text = launch('train.py', *argv)
    assert code == 0 and 'finished run' in text and (out / 'log.jsonl').read_bytes() == before


@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
def test_resume_after_a_kill_is_bit_exact(start, launch, toy, tmp_path, optimizer):
    argv = [*TINY, f'--dataset={toy}', f'--optimizer={optimizer}', '--dropout=0.2', '--max_iters=300',
            '--ema=0.9', '--eval_interval=7']
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/straight')
    assert code == 0, text
    killed = start('train.py', *argv, f'--out_dir={tmp_path}/killed')
    until(lambda: (tmp_path / 'killed/last.pt').exists() and len(events(tmp_path / 'killed')) > 40)
    killed.kill()
    assert killed.wait() == -9
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/killed')
    assert code == 0 and 'resuming' in text, text
    assert losses(tmp_path / 'killed') == losses(tmp_path / 'straight')
    pairs = zip(events(tmp_path / 'killed', 'eval'), events(tmp_path / 'straight', 'eval'), strict=True)
    assert all(a['loss'] == b['loss'] and a['step'] == b['step'] for a, b in pairs)
    a, b = (load_checkpoint(tmp_path / name / 'last.pt') for name in ('killed', 'straight'))
    assert all(torch.equal(a['model'][name], b['model'][name]) for name in a['model'])
    assert all(torch.equal(a['ema'][name], b['ema'][name]) for name in a['ema'])


def test_a_resumed_run_keeps_the_scales_of_its_first_weights(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', '--relative_lr=True', '--learning_rate=0.3', '--optimizer=muon',
            '--warmup_iters=1']
    launch('train.py', *argv, f'--out_dir={tmp_path}/first', '--max_iters=5')
    weights = f'--init_from={tmp_path}/first'
    for name in 'straight', 'resumed':
        code, text = launch('train.py', *argv, weights, f'--out_dir={tmp_path}/{name}', '--schedule=constant',
                            f'--max_iters={10 if name == "resumed" else 20}')
        assert code == 0, text
    code, text = launch('train.py', *argv, '--init_from=resume', f'--out_dir={tmp_path}/resumed',
                        '--schedule=constant', '--max_iters=20')
    assert code == 0, text
    assert losses(tmp_path / 'resumed') == losses(tmp_path / 'straight')


def test_evaluations_change_no_training_loss(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', '--max_iters=50', '--dropout=0.1']
    for interval in 5, 50:
        out = f'--out_dir={tmp_path}/{interval}'
        assert launch('train.py', *argv, f'--eval_interval={interval}', out)[0] == 0
    assert losses(tmp_path / '5') == losses(tmp_path / '50')


@pytest.fixture
def backwards(tmp_path):
    """Sequences of 1 to 12 ids, each followed by its end, whose target is the same backwards."""
    rng, splits = np.random.default_rng(0), {}
    for name, n in ('train', 90), ('val', 13):      # 13: by twos 7 batches, of which two ranks do 4 and 3
        rows = [rng.integers(2, 11, rng.integers(1, 13)) for _ in range(n)]
        splits[name] = {'src': [[*row, 1] for row in rows], 'tgt': [[*row[::-1], 1] for row in rows]}
    data.save(str(tmp_path / 'pairs'), splits, kinds={'src': 'ragged', 'tgt': 'ragged'},
              info={'vocab_size': 11}, tokenizer=None)
    return str(tmp_path / 'pairs')


@pytest.mark.parametrize('kind', ['toy', 'backwards'])
def test_ranks_and_micro_batches_give_the_same_run(launch, request, tmp_path, kind):
    model = {'toy': 'gpt', 'backwards': 'transformer'}[kind]
    for name, ranks, size in ('whole', 0, 8), ('2x4', 0, 4), ('8x1', 0, 1), ('ranks', 2, 4), ('both', 2, 2):
        code, text = launch('train.py', *TINY, f'--dataset={request.getfixturevalue(kind)}',
                            f'--model={model}', f'--micro_batch_size={size}', f'--out_dir={tmp_path}/{name}',
                            ranks=ranks)
        assert code == 0, text
    whole = losses(tmp_path / 'whole')
    assert len(whole) == 20
    for name in '2x4', '8x1', 'ranks', 'both':
        assert losses(tmp_path / name) == pytest.approx(whole, abs=1e-5), name
        ours, val = (events(tmp_path / run, 'eval')[-1]['loss'] for run in (name, 'whole'))
        assert ours == pytest.approx(val, abs=1e-5), name


def test_rows_that_are_too_long_are_reported(launch, backwards, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={backwards}', '--model=transformer',
                        f'--out_dir={tmp_path}/a', '--block_size=8', '--max_iters=1')
    assert code == 0, text
    for name in 'train', 'val':
        count = sum(np.diff(np.fromfile(f'{backwards}/{name}.src.offsets.bin', '<i8')) > 8)
        assert count > 3 and f'\n{count} rows of {name}, longer than block_size 8, are cut\n' in f'\n{text}'


def test_torchrun_itself(toy, tmp_path):
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    argv = [*TINY, f'--dataset={toy}', '--max_iters=3', f'--out_dir={tmp_path}/run']
    done = subprocess.run([*torchrun, 'train.py', *argv], cwd=ROOT, capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 0, done.stderr
    assert events(tmp_path / 'run', 'config')[0]['processes'] == 2


def test_early_stopping_target_and_ema(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', '--max_iters=400', '--eval_interval=5', '--patience=2',
            '--learning_rate=1', '--grad_clip=0']
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/a', '--target=0.01')
    assert code == 7 and 'target missed' in text, text
    checkpoint = load_checkpoint(tmp_path / 'a/last.pt')
    assert checkpoint['done'] and checkpoint['step'] < 400
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/b']
    code, text = launch('train.py', *argv, '--ema=0.5', '--target=3')
    assert code == 0, text
    best, last = (load_checkpoint(tmp_path / f'b/{name}.pt') for name in ('best', 'last'))
    assert torch.equal(best['model']['head.weight'], last['ema']['head.weight'])
    assert not torch.equal(best['model']['head.weight'], last['model']['head.weight'])
    assert not any(t.requires_grad for t in last['ema'].values())


def test_moving_averages_that_begin_with_a_resumed_run_begin_with_its_weights(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a']
    launch('train.py', *argv)
    trained = load_checkpoint(tmp_path / 'a/last.pt')['model']
    code, text = launch('train.py', *argv, '--init_from=resume', '--ema=0.9', '--max_iters=21',
                        '--learning_rate=1e-12', '--weight_decay=0')
    assert code == 0, text
    for name, average in load_checkpoint(tmp_path / 'a/last.pt')['ema'].items():
        assert torch.allclose(average, trained[name], atol=1e-6), name


@pytest.mark.parametrize('tie', [False, True])
def test_a_checkpoint_with_averages_loads_as_the_averages_whatever_its_name(launch, toy, tmp_path, tie):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--ema=0.9', '--keep_interval=20',
            f'--tie={tie}']
    launch('train.py', *argv)
    best = load(tmp_path / 'a/best.pt').state_dict()
    assert load_checkpoint(tmp_path / 'a/best.pt')['best']['step'] == 20
    for name in 'last.pt', 'step_20.pt':
        found = load(tmp_path / 'a' / name).state_dict()
        assert all(torch.equal(best[key], found[key]) for key in best)
        assert not torch.equal(load_checkpoint(tmp_path / 'a' / name)['model']['head.weight'],
                               found['head.weight'])


def test_the_best_accuracy_is_the_highest_and_a_target_is_reached_from_below(launch, tmp_path):
    image_data(tmp_path / 'x')
    argv = ['--model=cnn', '--width=4', '--batch_size=8', '--max_iters=12', '--eval_interval=1',
            '--learning_rate=1e-2', '--device=cpu', '--dtype=float32', f'--dataset={tmp_path}/x']
    for name, target, expected in ('a', 0.01, 0), ('b', 1, 7):
        code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/{name}', f'--target={target}')
        assert code == expected, text
    found = [line['accuracy'] for line in events(tmp_path / 'a', 'eval') if line['split'] == 'val']
    assert len({*found}) > 1 and load_checkpoint(tmp_path / 'a/best.pt')['best'] == {
        'name': 'accuracy', 'value': max(found), 'step': 1 + found.index(max(found))}


def test_eval_only_scratch_and_finetune(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a']
    assert launch('train.py', *argv)[0] == 0
    shutil.copy(tmp_path / 'a/best.pt', tmp_path / 'small.pt')
    before = {p: p.read_bytes() for p in (tmp_path / 'a').iterdir()}
    code, text = launch('train.py', '--eval_only', f'--out_dir={tmp_path}/a')
    assert code == 0 and f'loss {events(tmp_path / "a", "eval")[-1]["loss"]:.4f}' in text, text
    assert {p: p.read_bytes() for p in (tmp_path / 'a').iterdir()} == before
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--init_from={tmp_path}/small.pt',
                        f'--out_dir={tmp_path}/b', '--n_layer=3')
    assert code == 0 and 'blocks.2.mlp.fc.weight' in text, text
    assert events(tmp_path / 'b')[0]['loss'] < events(tmp_path / 'a')[0]['loss'] - 0.2
    code, text = launch('train.py', *argv, '--init_from=scratch')
    assert code == 0 and (tmp_path / 'a.1/last.pt').exists() and (tmp_path / 'a/last.pt').exists(), text


def test_a_best_without_a_last_is_moved_aside_not_overwritten(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a']
    assert launch('train.py', *argv)[0] == 0
    best = (tmp_path / 'a/best.pt').read_bytes()
    (tmp_path / 'a/last.pt').unlink(), (tmp_path / 'a/last.pt.previous').unlink()
    code, text = launch('train.py', *argv, '--seed=2')
    assert code == 0 and (tmp_path / 'a.1/best.pt').read_bytes() == best, text


def test_a_damaged_last_gives_way_to_the_one_before_it_with_a_message(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a']
    assert launch('train.py', *argv)[0] == 0
    whole = (tmp_path / 'a/last.pt').read_bytes()
    (tmp_path / 'a/last.pt').write_bytes(whole[:-1])
    code, text = launch('train.py', *argv)
    assert code == 0 and 'not a whole checkpoint' in text and 'going on from' in text, text
    assert load_checkpoint(tmp_path / 'a/last.pt')['done']


def test_a_finished_run_of_epochs_is_left_alone_unless_more_are_asked_for(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a']      # an epoch is 19 steps, max_iters 20
    assert launch('train.py', *argv, '--epochs=1')[0] == 0
    before = (tmp_path / 'a/log.jsonl').read_bytes()
    code, text = launch('train.py', *argv, '--epochs=1', '--init_from=resume')
    assert code == 0 and 'left alone' in text and (tmp_path / 'a/log.jsonl').read_bytes() == before, text
    code, text = launch('train.py', *argv, '--epochs=1.5', '--init_from=resume')
    assert code == 0 and max(losses(tmp_path / 'a')) == 28, text


def test_the_advice_under_torchrun_is_a_torchrun_command(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['train.py', 'config/x.py'])
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert command(init_from='auto') == 'torchrun --nproc_per_node=2 train.py config/x.py --init_from=auto'


def test_weight_decay_is_for_linear_and_convolution_layers_alone():
    net = nn.Module()
    net.conv = nn.Conv2d(3, 4, 3)
    net.linear = nn.Linear(4, 4)
    net.embed = nn.Embedding(5, 4)
    net.table = nn.Parameter(torch.zeros(10, 4))       # a vector for each class, not a layer
    adamw, = optim.make_optimizers(net, 'adamw', 1e-3, 0.1, (0.9, 0.99), 0.9, 'float32')
    decayed = {p for group in adamw.param_groups if group['weight_decay'] for p in group['params']}
    assert decayed == {net.conv.weight, net.linear.weight}


def test_a_command_with_new_max_iters_has_no_epochs(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['train.py', 'config/x.py', '--epochs=3', '--max_iters=9', '--seed=2'])
    assert command(max_iters=5) == 'python train.py config/x.py --seed=2 --max_iters=5'
    assert command(seed=4) == 'python train.py config/x.py --epochs=3 --max_iters=9 --seed=4'


def test_the_scale_of_the_loss_is_of_its_dtype(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--init_from=resume']
    assert launch('train.py', *argv[:-1])[0] == 0
    for dtype, steps, scale in ('float16', 25, 512), ('float16', 30, 512), ('float32', 35, 1):
        code, text = launch('train.py', *argv, f'--max_iters={steps}', f'--dtype={dtype}')
        assert code == 0 and events(tmp_path / 'a')[-1]['scale'] == scale, text


def test_weight_decay_may_change_on_resume(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a']
    assert launch('train.py', *argv)[0] == 0
    code, text = launch('train.py', *argv, '--init_from=resume', '--max_iters=25', '--weight_decay=0')
    assert code == 0 and max(losses(tmp_path / 'a')) == 25, text


def test_a_run_moves_to_a_machine_without_its_device(launch, toy, tmp_path):
    argv = f'--dataset={toy}', f'--out_dir={tmp_path}/a'
    assert launch('train.py', *TINY, *argv)[0] == 0
    path = tmp_path / 'a/last.pt'
    state = load_checkpoint(path)
    state['keys'] |= {'device': 'xla:1', 'dtype': 'float16', 'compile': True}
    save_checkpoint(path, state)
    code, text = launch('train.py', *argv, '--init_from=resume', '--max_iters=25')
    assert code == 0 and 'xla:1 is not here' in text and max(losses(tmp_path / 'a')) == 25, text
    assert load_checkpoint(path)['keys']['dtype'] != 'float16'
    state = load_checkpoint(path)
    state['keys'] |= {'compile': True}
    save_checkpoint(path, state)
    code, text = launch('train.py', *argv, '--init_from=resume', '--max_iters=30', '--compile=auto')
    assert code == 0 and load_checkpoint(path)['keys']['compile'] is False, text


def test_a_foreign_run_is_an_error_with_both_ways_out(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a']
    assert launch('train.py', *argv)[0] == 0
    code, text = launch('train.py', *argv, '--n_embd=32')
    assert code == 2 and 'n_embd: 16 there, 32 given' in text
    assert '--init_from=scratch' in text and 'a_2' in text
    code, text = launch('train.py', *argv, '--init_from=resume', '--max_iters=30', '--learning_rate=1e-3')
    assert code == 0 and 'learning_rate: 0.01 there, 0.001 given' in text, text
    assert max(losses(tmp_path / 'a')) == 30, text


def test_the_ways_out_of_a_resumed_run_hold_what_is_in_its_checkpoint(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--ema=0.9']
    assert launch('train.py', *argv)[0] == 0
    code, text = launch('train.py', f'--out_dir={tmp_path}/a', '--init_from=resume', '--batch_size=4',
                        '--max_iters=30')
    assert code == 2 and 'batch_size: 8 there, 4 given' in text, text
    commands = [shlex.split(line.partition(': python ')[2]) for line in text.splitlines()[-2:]]
    expected = load_checkpoint(tmp_path / 'a/best.pt')
    for out_dir, (script, *advised) in ('a_2', commands[1]), ('a', commands[0]):
        code, text = launch('train.py', *advised, '--device=cpu', '--dtype=float32')
        assert code == 0 and script.endswith('train.py'), text
        found = load_checkpoint(tmp_path / out_dir / 'last.pt')
        assert found['config'] == expected['config'] and found['data'] == expected['data']
        differing = {name for name in found['keys'] if found['keys'][name] != expected['keys'][name]}
        assert differing <= {'batch_size', 'max_iters', 'max_minutes', 'out_dir', 'init_from'}
        assert found['keys']['batch_size'] == 4 and found['step'] == 30
    assert load_checkpoint(tmp_path / 'a.1/last.pt')['step'] == 20


def test_the_way_out_of_a_fine_tuned_run_keeps_the_weights_it_began_with(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', '--max_iters=2']
    assert launch('train.py', *argv, f'--out_dir={tmp_path}/a')[0] == 0
    assert launch('train.py', *argv, f'--init_from={tmp_path}/a', f'--out_dir={tmp_path}/b')[0] == 0
    code, text = launch('train.py', f'--out_dir={tmp_path}/b', '--init_from=resume', '--seed=3')
    assert code == 2 and 'scratch' not in text, text
    assert f'--init_from={tmp_path}/a --out_dir={tmp_path}/b_2' in text, text


def test_a_signal_saves_and_a_resume_continues(start, launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', '--max_iters=100000', f'--out_dir={tmp_path}/a']
    for number, expected in (signal.SIGINT, 130), (signal.SIGTERM, 143):
        process = start('train.py', *argv)
        until(lambda: 'to go' in process.text)
        process.kill(number)
        assert process.wait() == expected and 'to go on: python' in process.text, process.text
        step = load_checkpoint(tmp_path / 'a/last.pt')['step']
        assert step == events(tmp_path / 'a')[-1]['step']


def test_a_signal_to_one_rank_stops_and_saves_all(start, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--max_iters=100000']
    both = start('train.py', *argv, ranks=2)
    until(lambda: 'to go' in both[0].text)
    both[1].kill(signal.SIGTERM)
    assert [process.wait() for process in both] == [143, 143], both[0].text + both[1].text
    assert load_checkpoint(tmp_path / 'a/last.pt')['step'] == events(tmp_path / 'a')[-1]['step']


def nan_at_step_3_and_from_step_30():
    """Patched into a child: the loss is NaN in the third forward pass and from the thirtieth on."""
    forward, calls = gpt.Model.forward, iter(range(10**6))      # in the first one FLOPs are counted

    def faulty(self, tokens):
        sums = forward(self, tokens)
        call = next(calls) if self.training else 0
        return {**sums, 'loss': sums['loss'] * (math.nan if call == 3 or call >= 30 else 1)}
    gpt.Model.forward = faulty


def test_nothing_finite_is_skipped_and_ten_in_a_row_end_the_run(launch, toy, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/a', '--max_iters=100',
                        env={'PATCH': 'test_train.nan_at_step_3_and_from_step_30'})
    assert code == 6 and 'diverged' in text and text.count('skipped: loss') == 11, text
    assert [line['step'] for line in events(tmp_path / 'a') if line['skipped']] == [3, *range(30, 40)]
    saved = load_checkpoint(tmp_path / 'a/last.pt')
    assert saved['step'] == 30 and all(torch.isfinite(t).all() for t in saved['model'].values())


def test_compiled_runs_give_nearly_the_same_losses(launch, toy, tmp_path):
    argv = [*TINY, f'--dataset={toy}', '--max_iters=3', '--n_layer=1']
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/a')
    assert code == 0, text
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/b', '--compile=True')
    assert code == 0 and 'compile failed' not in text, text
    assert losses(tmp_path / 'a') == pytest.approx(losses(tmp_path / 'b'), abs=1e-4)
    names = [set(load_checkpoint(tmp_path / run / 'last.pt')['model']) for run in 'ab']
    assert names[0] == names[1]


@pytest.mark.parametrize('given, world, message', [
    ({'batch_size': 5}, 2,
     'batch_size 5 is no multiple of 2, micro_batch_size x processes; the next one is 6'),
    ({'batch_size': 10, 'micro_batch_size': 4}, 1,
     'batch_size 10 is no multiple of 4, micro_batch_size x processes; the next one is 12'),
    ({'batch_size': 1, 'micro_batch_size': 3}, 3,
     'batch_size 1 is no multiple of 9, micro_batch_size x processes; the next one is 9')])
def test_a_batch_that_cannot_be_shared_out_names_the_next_that_can(given, world, message):
    options = configurator.read_train([]).options
    train.check_options(options, {}, world=4)
    with pytest.raises(UserError) as error:
        train.check_options(options | given, {}, world)
    assert str(error.value) == message


def test_batch_norm_of_one_value_is_an_error_before_anything_is_written(launch, tmp_path):
    image_data(tmp_path / 'images')             # 12 x 12: 1 x 1 after three poolings
    argv = ['train.py', '--model=cnn', '--width=4', '--max_iters=2', '--device=cpu', '--dtype=float32',
            f'--dataset={tmp_path}/images', f'--out_dir={tmp_path}/a']
    for more in ['--batch_size=1'], ['--batch_size=4', '--micro_batch_size=1']:
        code, text = launch(*argv, *more)
        assert code == 2 and 'BatchNorm' in text and 'Traceback' not in text, text
        assert not (tmp_path / 'a').exists()
    assert launch(*argv, '--batch_size=4', '--micro_batch_size=2')[0] == 0


def test_a_config_that_does_not_fit_the_data_is_an_error(launch, tmp_path):
    fields = {'image': np.zeros((8, 3, 16, 16), np.uint8), 'mask': np.ones((8, 1, 16, 16), np.uint8)}
    data.save(str(tmp_path / 'x'), {'train': fields}, info={'size': [16, 16]})
    code, text = launch('train.py', '--model=unet', '--depth=5', '--batch_size=4',
                        f'--dataset={tmp_path}/x', f'--out_dir={tmp_path}/run')
    assert code == 2 and 'too small for depth 5' in text and 'Traceback' not in text, text


SHRINK = {'gpt': ['--n_layer=1', '--block_size=16', '--batch_size=2'],
          'gpt2': ['--n_layer=1', '--n_head=1', '--n_embd=8', '--block_size=16', '--batch_size=2',
                   '--micro_batch_size=1'],
          'transformer': ['--n_layer=1', '--n_head=2', '--n_embd=16', '--batch_size=8',
                          '--micro_batch_size=4'],
          'cnn': ['--width=4', '--batch_size=8'], 'resnet': ['--arch=resnet20', '--batch_size=8'],
          'mobilenet': ['--width=0.125', '--batch_size=8'], 'mobinet': ['--width=0.125', '--batch_size=8'],
          't5': ['--n_layer=1', '--n_head=2', '--n_embd=16', '--d_kv=8', '--d_ff=32', '--batch_size=8',
                 '--micro_batch_size=4'],
          'classifier': ['--n_layer=1', '--n_head=2', '--n_embd=16', '--n_hidden=32', '--batch_size=8',
                         '--micro_batch_size=4'],
          'cvae': ['--width=4', '--batch_size=8'],
          'cvae_prior': ['--width=4', '--latent=8', '--waves=16', '--batch_size=8'],
          'unet': ['--width=2', '--depth=2', '--batch_size=8', '--shift=2']}


@pytest.mark.parametrize('config', sorted(path.name for path in (ROOT / 'config').glob('*.py')))
def test_every_config_trains(launch, toy, tmp_path, config):
    keys = {name: value for name, value, _ in configurator.parse_config(ROOT / 'config' / config)[0]}
    model, path = keys.get('model', 'gpt'), toy
    fields = inspect.signature(import_module(f'models.{model}').Model.forward).parameters
    if 'image' in fields:
        path = tmp_path / 'images'
        image_data(path)
    elif keys.get('dataset') == 't5_spans':
        path = tmp_path / 'spans'
        tokens = np.arange(4000) % 250 + 2
        data.save(str(path), {split: {'tokens': tokens} for split in ('train', 'val', 'test')},
                  {'tokens': 'stream'}, {'vocab_size': 360, 'sentinel': 359})
    elif 'src' in fields:
        path = tmp_path / 'pairs'
        lines = [['one', 'un'], ['two', 'deux'], ['three', 'trois']] * 5
        tokenizer = bpe.train(sum(lines, []), 260)
        pairs.save(str(path), {'train': lines, 'val': lines[:3], 'test': lines[:2]}, tokenizer, ['en', 'fr'])
    elif 'text' in fields:
        path = tmp_path / 'texts'
        rows = [texts.Row('a good film', 'pos', ''), texts.Row('a bad film', 'neg', '')] * 8
        texts.save(str(path), {'train': rows, 'val': rows[:3], 'test': rows[:2]}, 258)
    shrink = [*SHRINK[model], '--init_from=scratch']
    if 'n_frequent' in keys:
        shrink = [*shrink, '--n_frequent=1']
    code, text = launch('train.py', f'config/{config}', f'--dataset={path}', f'--out_dir={tmp_path}/a',
                        '--max_iters=2', '--eval_interval=1', '--target=0', '--device=cpu', *shrink)
    assert code == 0 and load_checkpoint(tmp_path / 'a/last.pt')['done'], text
