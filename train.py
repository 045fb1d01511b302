"""Train any model of models/ on any data set of data/: everything that changes a number is in this file.

    python train.py                                             # a small GPT; needs no download
    python train.py config/train_shakespeare.py --dropout=0.2   # a config, then what to change in it
    torchrun --nproc_per_node=8 train.py config/train_shakespeare_gpu.py

A data set is named arrays, a model's forward takes those it names and returns sums, for means of unequal
parts cannot be added, and this loop joins the two. A step is a function of (seed, step): which rows, which
noise, which learning rate. So the same command after a kill goes on as if nothing had been; and 8 rows on one
process, 4 on each of two, or 8 micro-batches of one are the same step, but for noise and BatchNorm, which
each has to itself.
"""
import time; start = time.monotonic()       # the run's clock starts before torch is imported
import dataclasses, inspect, math, os, sys
# A thread that waits for another one spins, and so takes the core that another program could use. To spin for
# less long than GNU OpenMP does by default costs nothing on a machine that is idle: results/speed.md.
os.environ.setdefault('GOMP_SPINCOUNT', '3000')     # read when torch is imported
from importlib import import_module
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import configurator, data, run, sample
from configurator import Refused
from core import machine
from core.limit import TimeLimit
from data.augment import Augment

# --- the run
out_dir = ''            # where it is written; empty: out/NAME for config/train_NAME.py
init_from = 'auto'      # auto: resume what is unfinished; scratch; resume; or a run or .pt file, its weights
eval_only = False       # only evaluate eval_split, with out_dir's best.pt or init_from; writes nothing
eval_split = 'val'      # the split that eval_only reads
eval_interval = 250     # steps between evaluations on val; each saves last.pt
log_interval = 10       # steps between train lines in log.jsonl
sample_interval = 0     # steps between samples, shown at evaluations; 0: one at the end
keep_interval = 0       # steps between checkpoints kept for good as step_N.pt; 0: none
patience = 0            # evaluations without a better one before the run ends early; 0: never
target = 0.0            # what the monitored metric must reach on val, else exit code 7; 0: nothing
export = ''             # a file for the best weights, config and tokenizer alone, written at the end
# --- data and model
dataset = 'stdlib'      # a folder in data/, or a path
prepare = ''            # options of its prepare.py, as on a command line
verify = False          # recompute the sha256 of the data first
model = 'gpt'           # a file in models/; its Config fields are keys too
batch_size = 16         # rows per step, all processes and micro-batches together
micro_batch_size = 0    # rows that go through the model at once; 0: batch_size / processes
pad_to = 1              # ragged rows are padded to a multiple of so many tokens
flip: Literal['none', 'random', 'alternating'] = 'none'     # of images to train on; random: half of
                        # them, drawn anew each time; alternating: each in every other epoch
shift = 0               # images to train on: moved by at most so many pixels
cutout = 0              # images to train on: side in pixels of a square without content
zoom = 0.0              # images to train on: larger by at most this share, or smaller by the same factor
jitter = 0.0            # images to train on: brightness, contrast and saturation change by such a share
channels_last = False   # convolutions with the channels last in memory, where they are faster
seed = 1337             # of the rows, the noise and the initial weights
# --- optimization
optimizer: Literal['adamw', 'sgd', 'muon'] = 'adamw'    # muon: the matrices of the blocks, else AdamW
learning_rate = 1e-3    # the peak
schedule: Literal['cosine', 'onecycle', 'linear', 'inverse_sqrt', 'constant'] = 'cosine'    # after the warmup
warmup_iters = 0.05     # steps of warmup; below 1 a share of max_iters
min_lr = 0.0            # where the schedule ends
max_iters = 2000        # steps
epochs = 0.0            # passes over the data; sets max_iters unless 0
max_minutes = 0.0       # wall clock in which the run ends: lowers max_iters to what fits; 0: no limit
weight_decay = 0.1      # on matrices, not on embeddings and vectors
beta1 = 0.9             # AdamW's memory of the gradient
beta2 = 0.99            # AdamW's memory of its square
momentum = 0.95         # of SGD and Muon, Nesterov's
grad_clip = 1.0         # largest norm of the gradient; 0: any
ema = 0.0               # decay per step of averaged weights, which are then evaluated and kept; 0: none
# --- machine
device = 'auto'         # auto, cpu, cuda, cuda:1, mps
dtype: Literal['auto', 'float32', 'bfloat16', 'float16'] = 'auto'   # of arithmetic; weights stay float32
compile: Literal['auto', True, False] = 'auto'          # torch.compile
threads = 0             # of a CPU; 0: as torch chooses
deterministic = False   # bit-exact repeats on CUDA too, where they cost time; a CPU repeats anyway


def lr_factor(step, schedule, warmup, total, floor=0.0):
    """The share of the peak learning rate at a step: `warmup` steps of rise, then down to `floor` at `total`.

    cosine: Loshchilov & Hutter 2017. inverse_sqrt: Vaswani et al. 2017, equation 3. onecycle: torch's
    OneCycleLR with pct_start = warmup / total and the final value `floor` (Smith & Topin 2018).
    """
    if schedule == 'onecycle':
        top, first = warmup - 1, 1 / 25
        if step <= top:
            return first + (1 - first) * (1 - math.cos(math.pi * step / max(top, 1))) / 2
        done = min((step - top) / max(total - 1 - top, 1), 1)
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min((step - warmup) / max(total - warmup, 1), 1)
    return {'cosine': floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2,
            'linear': floor + (1 - floor) * (1 - done),
            'inverse_sqrt': max(floor, math.sqrt((warmup + 1) / (step + 1))),
            'constant': 1.0}[schedule]


def steps_of_warmup(warmup_iters, max_iters):
    """Return the number of warmup steps: a tenth of a run that is too short for the number given."""
    warmup = round(warmup_iters * (max_iters if warmup_iters < 1 else 1))
    return warmup if warmup < max_iters else max_iters // 10


def orthogonal(matrices):
    """The nearest orthogonal ones to (n, rows, columns) matrices, roughly: Newton-Schulz steps of a
    polynomial that brings their singular values to between 0.7 and 1.2 (Jordan et al. 2024)."""
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices       # smaller products this way
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = newton_schulz_gram(x) if x.dtype == torch.float32 else newton_schulz(x)
    return x.mT if tall else x


def newton_schulz(X):
    """Five steps of X <- P X with P = a I + b A + c A^2 and A = X X^T, for (n, rows, columns) matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)         # b A + c A^2
        X = torch.baddbmm(X, B, X, beta=a)                  # a X + B X
    return X


def newton_schulz_gram(X):
    """The same in less time where there are more columns than rows: 0.6 of it in the blocks of a GPT.

    After a step, A is P A P. So it is enough to follow A, which is smaller than X, and the product of all P.
    For float32 alone: A has the squares of the singular values, and bfloat16 would lose the small ones.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    identity = torch.eye(X.size(1), dtype=X.dtype, device=X.device)
    A = X @ X.mT
    P = a * identity + torch.baddbmm(A, A, A, beta=b, alpha=c)
    product = P
    for _ in range(4):
        A = P @ A @ P
        P = a * identity + torch.baddbmm(A, A, A, beta=b, alpha=c)
        product = P @ product
    return product @ X


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, made orthogonal matrix by matrix, so that every direction moves as far (Jordan et
    al. 2024). An update has the size of AdamW's (Liu et al. 2025), so one learning rate serves both. A filter
    is a row of its layer's matrix. Matrices of one shape go through in one product, unlike torch's own."""

    def __init__(self, params, lr, weight_decay, momentum, dtype):
        super().__init__(params, {'lr': lr, 'weight_decay': weight_decay, 'momentum': momentum})
        self.dtype = dtype                      # of the matrix products

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes, momentum = {}, group['momentum']
            for p in group['params']:
                shapes.setdefault(p.shape, []).append(p)
                if not self.state[p]:
                    self.state[p]['momentum_buffer'] = torch.zeros_like(p)
            for shape, weights in shapes.items():
                gradients = [p.grad for p in weights]
                buffers = [self.state[p]['momentum_buffer'] for p in weights]
                torch._foreach_lerp_(buffers, gradients, 1 - momentum)
                ahead = torch.stack(torch._foreach_lerp(gradients, buffers, momentum)).flatten(2)
                update = orthogonal(ahead.to(self.dtype)) * (0.2 * math.sqrt(max(ahead.shape[1:])))
                torch._foreach_mul_(weights, 1 - group['lr'] * group['weight_decay'])
                torch._foreach_sub_(weights, list(update.float().view(-1, *shape)), alpha=group['lr'])


def make_optimizers(net, optimizer, lr, weight_decay, betas, momentum, dtype):
    """[optimizers] that own every trainable parameter once. Decay is for weights of two dimensions and more,
    not for embeddings. Muon is for the weights of Linears and ungrouped convolutions inside a ModuleList,
    AdamW for the rest."""
    trainable = [p for p in net.parameters() if p.requires_grad]
    embeddings = {m.weight for m in net.modules() if isinstance(m, nn.Embedding)}
    blocks = [m for outer in net.modules() if isinstance(outer, nn.ModuleList) for m in outer.modules()]
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d) if optimizer == 'muon' else ()
    inner = {m.weight for m in blocks if isinstance(m, kinds) and getattr(m, 'groups', 1) == 1}
    matrices, rest = [p for p in trainable if p in inner], [p for p in trainable if p not in inner]
    decayed = {p for p in rest if p.dim() >= 2 and p not in embeddings}
    groups = [{'params': [p for p in rest if (p in decayed) == yes], 'weight_decay': weight_decay * yes}
              for yes in (False, True)]         # an order that no value changes: resume relies on it
    groups = [group for group in groups if group['params']]
    if optimizer == 'sgd':
        return [torch.optim.SGD(groups, lr, momentum=momentum, nesterov=momentum > 0)]
    optimizers = [torch.optim.AdamW(groups, lr, betas, fused=True)] if groups else []
    if matrices:
        optimizers += [Muon(matrices, lr, weight_decay, momentum,
                            torch.bfloat16 if dtype == 'bfloat16' else torch.float32)]
    return optimizers


def seed_noise(*key):
    """Seed torch's generator, the source of all noise inside a model, by integers that say where we are."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def flatten(sums):
    """A forward's sums as one float64 vector (float32 where that is all there is). Raises TypeError for a sum
    that is not float32."""
    for name, value in sums.items():
        kind = getattr(value, 'dtype', type(value))
        if kind != torch.float32:
            raise TypeError(f'forward returned {name!r} as {kind}, expected a float32 tensor')
    wide = torch.float32 if sums['loss'].device.type == 'mps' else torch.float64
    return torch.cat([value.detach().reshape(-1).to(wide) for value in sums.values()])


def unflatten(vector, like):
    """The sums by name, from the front of such a vector; `like`, one forward's, has names and shapes."""
    sizes = [value.numel() for value in like.values()]
    return {name: part.view(like[name].shape) for name, part in zip(like, vector[:sum(sizes)].split(sizes))}


def reported(net, total):
    """What net.metrics makes of the totals, as plain numbers."""
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value
            for name, value in net.metrics(total).items()}


def gradients(net, split, micro_batches, ahead, autocast, scale, progress):
    """Add up the gradient of the summed loss x scale over this process's micro-batches: (the last one's sums,
    the total of all as one vector).

    Processes exchange gradients after the last only; the rows `ahead` are read while the device computes."""
    total = 0
    for i, rows in enumerate(micro_batches):
        last = i == len(micro_batches) - 1
        if isinstance(net, nn.parallel.DistributedDataParallel):
            net.require_backward_grad_sync = last
        batch = split.batch(rows, ahead if last else micro_batches[i + 1])
        with autocast:
            sums = net(**batch, **progress)
        (sums['loss'] * scale).backward()
        total = total + flatten(sums)
    return sums, total


@torch.no_grad()
def evaluate(net, split, batch_size, autocast, progress, seed, stopping, every=1):
    """The metrics over all rows of `split`, shared among the processes, exact for any number of them; None if
    stopped. Eager: to compile a second graph would cost more than it saves. every: of so many batches one."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    batches, total = split.evaluation(batch_size)[::every], 0
    net.eval()
    for i in range(rank, len(batches) + rank, world):       # as many rounds on every rank
        seed_noise(seed, i, *split.name.encode())
        batch = split.batch(batches[i % len(batches)], batches[(i + world) % len(batches)])
        with autocast:
            sums = net.forward(**batch, **progress)
        total = total + flatten(sums) * (i < len(batches))
        if (i // world % 16 == 0 or world == 1) and stopping():
            return None
    net.train()
    if world > 1:
        dist.all_reduce(total)
    return reported(net, unflatten(total.cpu().double(), sums))


def seconds_of(function, *arguments):
    """Return how long a call takes."""
    begun = time.monotonic()
    function(*arguments)
    return time.monotonic() - begun


def swap(weights, average):
    """Exchange the weights and their running average; a second call undoes the first."""
    for p, a in zip(weights, average):
        p.data, a.data = a.data, p.data


def compiler_failed(error):
    """Whether an exception is torch.compile's rather than the model's."""
    compilers = 'torch._dynamo', 'torch._inductor', 'triton'
    return any(kind.__module__.startswith(compilers) for kind in type(error).__mro__)


if __name__ == '__main__':
    # Everything is checked before anything is written. A resumed run's keys fill those that were not given.
    settings = configurator.read(__file__, sys.argv[1:], configurator.ROOT / 'config' / 'train_stdlib.py')
    this = run.Run(settings, start)
    globals().update(settings.knobs)
    rank, local_rank, world = (int(os.environ.get(name, i)) for i, name in
                               ((0, 'RANK'), (0, 'LOCAL_RANK'), (1, 'WORLD_SIZE')))
    device, dtype, compile, reasons = configurator.resolve(device, dtype, compile)
    keys = settings.knobs | {'device': device, 'dtype': dtype, 'compile': compile,
                             'threads': threads or torch.get_num_threads()}
    micro_batch_size = micro_batch_size or max(batch_size // world, 1)
    module, problems = import_module(f'models.{model}'), []
    try:
        module.Config(**settings.fields)
    except (TypeError, ValueError) as error:
        problems += str(error).split('\n')
    for least, most, names in (
            (1, math.inf, 'max_iters batch_size micro_batch_size pad_to eval_interval log_interval'),
            (0, math.inf, 'warmup_iters epochs max_minutes weight_decay grad_clip'),
            (0, math.inf, 'patience sample_interval keep_interval shift cutout zoom'), (0, 1, 'jitter'),
            (0, 2**32 - 1, 'seed'), (1e-12, 1e3, 'learning_rate'), (0, learning_rate, 'min_lr'),
            (0, 0.999999, 'beta1 beta2 momentum ema'), (0, 1024, 'threads')):
        problems += [f'{name} must be from {least} to {most:g}, got {globals()[name]}'
                     for name in names.split() if not least <= globals()[name] <= most]
    if not problems and batch_size % (micro_batch_size * world):
        problems.append(f'batch_size {batch_size} is not divisible by micro_batch_size {micro_batch_size} '
                        f'x {world} processes')
    if 'RANK' in os.environ and device not in ('cpu', 'cuda'):
        problems.append(f'under torchrun the device must be cpu or cuda, got {device}')
    if export and not os.path.isdir(os.path.dirname(os.path.abspath(export))):
        problems.append(f'export {export}: there is no such folder')
    if problems:
        raise Refused(*problems)
    begun = time.monotonic()
    meta = data.ensure(dataset, prepare, verify)
    this.start += time.monotonic() - begun      # the run's clock stands still while data are prepared
    if this.checkpoint and this.checkpoint['data'] != data.hashes(meta):
        way = '' if eval_only else ': --init_from=scratch'
        raise Refused(f'{dataset} is not what {out_dir} was trained on{way}', code=3)
    info = {f.name: meta['info'][f.name] for f in dataclasses.fields(module.Config) if f.name in meta['info']}
    problems = [f'{name} is {info[name]!r} in the data set {dataset}, got {value!r}'
                for name, value in settings.fields.items() if info.get(name, value) != value]
    if target and 'val' not in meta['splits']:
        problems.append(f'target is a value on val, which {dataset} has not')
    if eval_only and eval_split not in meta['splits']:
        problems.append(f'eval_split {eval_split!r}: {dataset} has {", ".join(meta["splits"])}')
    if problems:
        raise Refused(*problems)
    try:
        config = module.Config(**settings.fields | info)
    except ValueError as error:         # what does not fit these data
        raise Refused(*str(error).split('\n'))

    # The machine and the other processes.
    configurator.settle(device, dtype, threads)
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False          # another run may find another one faster
    distributed = 'RANK' in os.environ
    if distributed:
        if device == 'cuda':
            device = f'cuda:{local_rank}'
            torch.cuda.set_device(device)
        store, *_ = next(dist.rendezvous('env://'))
        attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')     # or they meet the dead ones
        gpu = torch.device(device) if device.startswith('cuda') else None
        dist.init_process_group('nccl' if gpu else 'gloo', store=dist.PrefixStore(attempt, store), rank=rank,
                                world_size=world, device_id=gpu)
        sys.excepthook = configurator.explain       # torch has put its own around it, which loses its words
        everyone, found = [None] * world, this.checkpoint['step'] if this.checkpoint else 'none'
        mine = keys | dataclasses.asdict(config) | data.hashes(meta) | {'checkpoint': found}
        dist.all_gather_object(everyone, mine)
        wrong = [key for key in everyone[0] if any(other.get(key) != everyone[0][key] for other in everyone)]
        if wrong:
            raise Refused(f'the processes disagree on {", ".join(wrong)}')
    autocast = torch.autocast(device.split(':')[0], getattr(torch, dtype), enabled=dtype != 'float32')

    # The data, the model, its optimizers.
    arguments = list(inspect.signature(module.Model.forward).parameters)[1:]
    splits = {name: data.Split(dataset, name, [a for a in arguments if a != 'progress'],
                               getattr(config, 'block_size', 0), device, pad_to,
                               Augment(flip, shift, cutout, zoom, jitter) if name == 'train' else None)
              for name in dict.fromkeys(['train', *meta['splits']])}
    train = splits['train']
    if len(train) < batch_size:
        raise Refused(f'{dataset} has {len(train)} rows to train on, batch_size is {batch_size}: '
                      f'--batch_size={len(train)}')
    for name, split in splits.items():
        if split.too_long:
            this.say(f'{split.too_long:,} rows of {name}, longer than block_size {split.block_size}, are '
                     + ('left out' if len(split) < split.size else 'cut'))
    max_iters = max(1, round(epochs * (len(train) // batch_size))) if epochs else max_iters
    max_iters = this.limit['max_iters'] or max_iters        # a resumed run ends where it would have ended
    warmup = steps_of_warmup(warmup_iters, max_iters)
    if warmup_iters >= max_iters:
        this.say(f'warmup_iters {warmup_iters:g} is cut to {warmup}, to fit {max_iters} steps')
    seed_noise(seed, *b'init')
    net = module.Model(config).to(device)
    if channels_last:
        net.to(memory_format=torch.channels_last)
    for line in configurator.fit(net, this.weights['model'], whole=False) if this.weights else ():
        this.say(f'not taken from {init_from}: {line}')
    if this.checkpoint:
        configurator.fit(net, this.checkpoint['model'])
    buffers = list(net.buffers())
    trainable = [p for p in net.parameters() if p.requires_grad]
    averaged = trainable + [b for b in buffers if b.is_floating_point()]    # BatchNorm's statistics, too
    average = [tensor.detach().clone() for tensor in averaged] if ema else []
    optimizers = make_optimizers(net, optimizer, learning_rate, weight_decay, (beta1, beta2), momentum,
                                 dtype)
    step, evaluated, best, stale = 0, 0, {}, 0          # the best evaluation, and how many came since
    rows = micro_batch_size * (getattr(config, 'block_size', 0) or 1)
    scale = 2.0**16 / rows if dtype == 'float16' else 1.0   # of the loss, which is a sum
    streak = 0                                          # consecutive good steps, or minus the bad ones

    def micro_batches(step):
        """This process's rows of a step, micro-batch by micro-batch."""
        return train.rows(step, batch_size, seed).reshape(-1, world, micro_batch_size)[:, rank]

    def at(share):
        """What the loop itself gives to a model that asks for it: how much of the run is over."""
        return {'progress': torch.full((), share, device=device)} if 'progress' in arguments else {}

    def stopping():
        """The signal that asked this or any other process to stop, or 0."""
        if not distributed:
            return this.signal
        flag = torch.tensor(this.signal, device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return flag.item()

    def judge(net, name, every=1):
        """The metrics of a split."""
        for buffer in net.buffers() if distributed else ():     # BatchNorm's statistics are a process's own
            dist.broadcast(buffer, 0)
        return evaluate(net, splits[name], micro_batch_size, autocast, at(1.0), seed, stopping, every)

    def time_evaluation():
        """Return the seconds of an evaluation with its saves, and of what follows the last one."""
        batches = {name: len(split.evaluation(micro_batch_size)) for name, split in splits.items()}
        evaluation, test = 0.0, 0.0
        if 'val' in splits:
            every = max(1, batches['val'] // (4 * world))       # a few batches stand for all
            evaluation = every * seconds_of(judge, net, 'val', every)
            test = evaluation * batches.get('test', 0) / batches['val']
        saving = seconds_of(save, 'last.pt', snapshot())
        sampling = seconds_of(sample.preview, net, meta, splits.get('val', train))
        return evaluation + 2 * saving, test + sampling + saving

    def snapshot(**more):
        """What a checkpoint holds: all one needs to go on, or to use the model without run and data."""
        return {'format': run.FORMAT, 'model': net.state_dict(), 'ema': average,
                'optimizers': [o.state_dict() for o in optimizers], 'scale': scale, 'streak': streak,
                'step': step, 'evaluated': evaluated, 'best': best, 'stale': stale, 'done': False,
                'limit': this.limit, 'seconds': this.seconds, 'keys': keys,
                'config': dataclasses.asdict(config),
                'info': meta['info'], 'tokenizer': meta['tokenizer'], 'data': data.hashes(meta),
                'versions': run.versions()} | more

    def leave(code):
        """Exit; several processes together and at once: gloo's threads may abort one that takes its time."""
        if distributed:
            dist.barrier()
            os._exit(code)
        raise SystemExit(code)

    def save(name, state):
        """Save on the first process; all learn whether it could be done, and none runs ahead."""
        done = torch.tensor(int(this.save(name, state)), device=device)
        if distributed:
            dist.broadcast(done, 0)
        return bool(done)

    if eval_only:
        this.say(f'{eval_split} at step {this.checkpoint["step"]}: {run.listed(judge(net, eval_split))}')
        leave(0)
    if this.checkpoint:
        step, evaluated, best, stale, streak = (
            this.checkpoint[key] for key in ('step', 'evaluated', 'best', 'stale', 'streak'))
        if this.checkpoint['keys']['dtype'] == dtype:   # or it is of other numbers
            scale = this.checkpoint['scale']
        stale *= not this.checkpoint['done']            # who trains on is patient anew
        for own, saved in zip(optimizers, this.checkpoint['optimizers'], strict=True):
            own.load_state_dict({'state': saved['state'], 'param_groups': own.state_dict()['param_groups']})
        for own, saved in zip(average, this.checkpoint['ema']):
            own.copy_(saved)
    parameters = sum(p.numel() for p in net.parameters())
    some = 4 if train.ragged else 1             # steps, whose rows have different lengths
    counted = [rows for i in range(some) for rows in micro_batches(step + i)]
    flops = machine.count_flops(net, train, counted, at(1.0)) * world / some
    this.open(step, keys=keys | {'max_iters': max_iters}, config=dataclasses.asdict(config),
              parameters=parameters, flops=flops, monitor=net.monitor, processes=world,
              machine=run.machine(device), versions=run.versions(), data=data.hashes(meta))
    this.say(f'{model} of {parameters / 1e6:.2f} M parameters, {dataset} of {len(train):,} rows; {reasons}')
    if compile:
        torch._dynamo.config.optimize_ddp = False       # one graph, not one for each bucket
        net.compile(fullgraph=True, dynamic=bool(train.ragged))
    wrapped = nn.parallel.DistributedDataParallel(net, broadcast_buffers=False) if distributed else net

    limit = TimeLimit(max_minutes, this, device)
    stopped = 0
    while True:
        if not stopped and step > evaluated and (step % eval_interval == 0 or step == max_iters):
            swap(averaged, average)
            metrics = judge(net, 'val') if 'val' in splits else None
            if 'val' not in splits and step == max_iters:       # nothing to choose on
                best = {'name': net.monitor[0], 'value': None, 'step': step}
                save('best.pt', snapshot(ema=[]))
            if metrics:
                (name, goal), before, evaluated = net.monitor, best, step
                value, sign = metrics[name], 1 if goal == 'max' else -1
                better = sign * value > sign * best['value'] if best else math.isfinite(value)
                if better:
                    best, stale = {'name': name, 'value': value, 'step': step}, -1
                stale += 1
                this.log('eval', step=step, epoch=step * batch_size / len(train), split='val',
                         seconds=this.seconds, **metrics)
                this.say(f'step {step}: val {run.listed(metrics)}' + ', the best so far' * better)
                if better and not save('best.pt', snapshot(ema=[])):
                    best = before
                if sample_interval and step % sample_interval == 0 and step < max_iters:
                    this.say(sample.preview(net, meta, splits['val']))
            swap(averaged, average)
            stopped = stopping()
            save('last.pt', snapshot())
            this.last = step, time.monotonic()          # an evaluation is no part of the rows per second
        if stopped or step >= max_iters or patience and stale >= patience:
            break

        # One step: gradients of (sum of losses) / (sum of counts) over the global batch.
        seed_noise(seed, step, rank)
        lr = learning_rate * lr_factor(step, schedule, warmup, max_iters, min_lr / learning_rate)
        for group in (group for o in optimizers for group in o.param_groups):
            group['lr'] = lr
        before = [buffer.clone() for buffer in buffers]
        now = micro_batches(step)
        following = micro_batches(step + 1)[0] if step + 1 < max_iters else None
        try:
            sums, vector = gradients(wrapped, train, now, following, autocast, scale, at(step / max_iters))
        except Exception as error:
            if not compile or not compiler_failed(error):
                raise
            this.say(f'torch.compile failed: {str(error).strip()[:80]!r}; the same step again without it')
            compile, net._compiled_call_impl = False, None
            for buffer, old in zip(buffers, before):
                buffer.copy_(old)
            net.zero_grad()
            continue
        vector = torch.cat([vector, vector.new_full((1,), float(this.signal > 0))])
        if distributed:
            dist.all_reduce(vector)
        count = unflatten(vector, sums)['count']
        share = (world / (count * scale)).float()               # DDP has divided by world
        torch._foreach_mul_([p.grad for p in trainable], share)
        norm = nn.utils.clip_grad_norm_(trainable, grad_clip or math.inf)
        vector = torch.cat([vector, norm.to(vector).view(1)]).cpu().double()    # the one synchronisation
        total, (flag, norm) = unflatten(vector, sums), vector[-2:].tolist()
        finite = math.isfinite(norm) and math.isfinite(total['loss'])
        if finite:
            for o in optimizers:
                o.step()
            if ema:
                with torch.no_grad():           # or the average would remember how it came about
                    decay = min(ema, (1 + step) / (10 + step))      # while young it forgets sooner
                    torch._foreach_lerp_(average, averaged, 1 - decay)
        else:                                   # as if nothing had happened, except that the step counts
            for buffer, old in zip(buffers, before):
                buffer.copy_(old)
        net.zero_grad()
        streak = max(streak, 0) + 1 if finite else min(streak, 0) - 1
        if dtype == 'float16':
            scale *= 0.5 if not finite else 2 if streak % 2000 == 0 else 1
        step, objective = step + 1, (total['loss'] / total['count']).item()
        if step % log_interval == 0 or not finite:
            this.progress(step, max_iters, batch_size, epoch=step * batch_size / len(train),
                          **reported(net, total), objective=objective, lr=lr, grad_norm=norm,
                          scale=scale, skipped=not finite, memory=run.memory(device))
        if not finite and dtype != 'float16':   # with which it is nothing special
            this.say(f'WARNING: step {step} skipped: loss {objective}, gradient norm {norm}')
        if not finite and (scale < 1e-3 if dtype == 'float16' else streak <= -10):
            raise Refused(f'diverged: no finite gradient in {-streak} steps, up to {step}; {out_dir} keeps '
                          f'what was before; try --learning_rate={learning_rate / 3:.1g}', code=6)
        if limit.due():
            evaluation, end = time_evaluation()
            max_iters = limit.decide(step, max_iters, eval_interval, evaluation, end, config)
            warmup = steps_of_warmup(warmup_iters, max_iters)
            save('last.pt', snapshot())         # a resume keeps to what is decided
        if flag:
            stopped = this.signal or 15
        elif time.monotonic() - this.saved > 600:
            this.save('last.pt', snapshot())
        if keep_interval and step % keep_interval == 0:
            this.save(f'step_{step}.pt', snapshot())

    # The end: test read once, by the best; then what the model can do.
    if stopped:
        if not save('last.pt', snapshot()):
            leave(4)
        this.say(f'stopped at step {step} of {max_iters}, saved; to go on: {run.command(init_from="auto")}')
        leave(128 + stopped)
    if best:
        chosen = configurator.build(run.read(this.path / 'best.pt'), device)
        if channels_last:
            chosen.to(memory_format=torch.channels_last)
        if 'test' in splits:
            metrics = judge(chosen, 'test')
            if not metrics:
                leave(128 + stopping())                 # the same command reads test again
            this.log('eval', step=best['step'], split='test', seconds=this.seconds, **metrics)
            this.say(f'test, with the best of val: {run.listed(metrics)}')
        this.say(sample.preview(chosen, meta, splits.get('val', train)))
    saved = save('last.pt', snapshot(done=True))
    this.log('done', step=step, best=best, seconds=this.seconds)
    this.export(export)
    this.say(this.verdict(best, step))
    name, goal = net.monitor
    missed = target and not (best and (best['value'] <= target if goal == 'min' else best['value'] >= target))
    this.say(f'target missed: val {name} is {best.get("value")}, asked for {target}' if missed else '')
    leave(7 if missed and saved else 0 if saved else 4)
