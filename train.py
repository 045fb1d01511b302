"""Train any model of models/ on any data set of data/.

    python train.py                                             # config/train_stdlib.py: needs no download
    python train.py config/train_shakespeare.py --dropout=0.2   # a config, then what to change in it
    torchrun --nproc_per_node=8 train.py config/train_shakespeare_gpu.py

A data set is a dict of arrays, such as `image` and `label`. A model's forward takes them by name and returns
sums, because means of unequal parts cannot be added. This file joins the two: what a step does to the weights
is here and in core/optim.py, which rows it reads is in data/, what a model is in models/. Begin reading at
"4. The loop".

Rows, noise and learning rate of a step follow from the options and the number of the step. So a checkpoint
needs no state of a random generator, and a run that was killed goes on as if nothing had happened. A batch of
8 rows may be split over processes and micro-batches: the update stays the same, but for noise inside a model
(dropout, T5's spans) and BatchNorm's statistics, which each micro-batch has to itself.
"""
import time
start = time.monotonic()            # the run's clock starts before torch is imported

import dataclasses
import inspect
import math
import os
import sys
from functools import partial
from importlib import import_module
from typing import Literal

# A waiting OpenMP thread loops before it sleeps. Less long, it leaves the core to others: results/speed.md.
os.environ.setdefault('GOMP_SPINCOUNT', '3000')         # read when torch is imported

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import configurator
import data
import samples
from core import errors, machine, processes
from core.checkpoint import build_model, evaluated_weights, load_checkpoint, load_weights, model_config
from core.errors import UserError
from core.facts import code_hash, command, format_metrics, metrics_of, peak_memory
from core.limit import TimeLimit
from core.optim import layer_norms, lr_factor, make_optimizers, swap, update_ema, warmup_steps
from core.resume import check_data
from core.run import Run
from core.state import State, copies, describe, is_whole, live_weights, pack, saved_buffers, unpack
from data.augment import Augment

# --- the run
out_dir = ''            # folder to write to; empty: out/NAME for config/train_NAME.py or --dataset=NAME
init_from = 'auto'      # auto: resume an unfinished run, else start one; scratch: start, rename the old one;
                        # resume: go on, also beyond the end; a run, .pt or hf:FOLDER: start with its weights
eval_only = False       # evaluate eval_split with out_dir's best.pt or init_from; nothing else is done
eval_split = 'val'      # the split that eval_only reads
eval_interval = 250     # steps between evaluations on val; each saves last.pt
log_interval = 10       # steps between train lines in log.jsonl
sample_interval = 0     # steps between samples, printed at evaluations; 0: one at the end
keep_interval = 0       # steps between checkpoints that are kept as step_N.pt; 0: none
patience = 0            # evaluations without a new best before the run ends early; 0: no limit
target = 0.0            # what the monitored metric must reach on val, else exit code 7; 0: no target
# --- data and model
dataset = 'stdlib'      # a folder in data/, or a path
prepare = ''            # options of its prepare.py, as on a command line
verify = False          # recompute the sha256 of the data first
model = 'gpt'           # a file in models/; the fields of its Config are options too
batch_size = 16         # rows per step, over all processes and micro-batches
micro_batch_size = 0    # rows per forward pass; 0: batch_size / processes
pad_to = 1              # ragged rows are padded to a multiple of this many tokens
channels_last = False   # store convolutions with the channels last in memory: faster on some machines
seed = 1337             # of the rows, the noise and the initial weights
# --- optimization
optimizer: Literal['adamw', 'sgd', 'muon'] = 'adamw'    # muon: for the matrices of blocks, AdamW for others
learning_rate = 1e-3    # the peak
relative_lr = False     # multiply it by the root mean square of each weight at first, as Adafactor does (T5)
schedule: Literal['cosine', 'onecycle', 'linear', 'inverse_sqrt', 'constant'] = 'cosine'    # after the warmup
warmup_iters = 0        # steps of warmup; 0: warmup_fraction decides
warmup_fraction = 0.05  # of max_iters
min_lr = 0.0            # the learning rate at the end of the schedule
max_iters = 2000        # steps
epochs = 0.0            # passes over the data; sets max_iters unless 0
max_minutes = 0.0       # wall clock in which the run ends: lowers max_iters to what fits; 0: no limit
weight_decay = 0.1      # of linear and convolution layers
beta1 = 0.9             # decay of AdamW's first moment
beta2 = 0.99            # decay of AdamW's second moment
epsilon = 1e-8          # added to the root of AdamW's second moment; larger: small gradients move less
momentum = 0.95         # of SGD and Muon, Nesterov's
grad_clip = 1.0         # largest norm of the gradient; 0: no clipping
ema = 0.0               # decay of an exponential moving average of the weights, which is evaluated; 0: none
# --- machine
device = 'auto'         # auto, cpu, cuda, cuda:1, mps
dtype: Literal['auto', 'float32', 'bfloat16', 'float16'] = 'auto'   # of the arithmetic; weights stay float32
compile: Literal['auto', True, False] = 'auto'          # torch.compile
threads = 0             # of a CPU; 0: as many as torch chooses
deterministic = False   # repeat to the bit on CUDA too, where that costs time; a CPU does so anyway

AT_LEAST = {
    1: 'eval_interval log_interval batch_size pad_to max_iters',
    1e-12: 'learning_rate epsilon',
    0: 'micro_batch_size sample_interval keep_interval patience warmup_iters warmup_fraction min_lr epochs '
       'max_minutes weight_decay grad_clip beta1 beta2 momentum ema threads seed',
}
AT_MOST = {'learning_rate': 1e3, 'seed': 2**32 - 1, 'threads': 1024}
BELOW_1 = 'warmup_fraction beta1 beta2 momentum ema'


def check_options(options, fields, world):
    """Raise UserError with all problems of values that are wrong whatever the data set is.

    fields: those of the model's Config that were given. world: the number of processes.
    """
    problems = []
    for least, names in AT_LEAST.items():
        for name in names.split():
            if options[name] < least:
                problems.append(f'{name} must be at least {least}, got {options[name]}')
    for name in BELOW_1.split():
        if options[name] >= 1:
            problems.append(f'{name} must be below 1, got {options[name]}')
    most = AT_MOST | {'min_lr': options['learning_rate']}
    for name in most:
        if options[name] > most[name]:
            problems.append(f'{name} must be at most {most[name]}, got {options[name]}')
    unit = max(options['micro_batch_size'], 1) * world
    if options['batch_size'] % unit:
        following = math.ceil(options['batch_size'] / unit) * unit
        problems.append(f'batch_size {options["batch_size"]} is no multiple of {unit}, micro_batch_size x '
                        f'processes; the next one is {following}')
    if 'RANK' in os.environ and options['device'] not in ('cpu', 'cuda'):
        problems.append(f'under torchrun the device must be cpu or cuda, got {options["device"]}')
    with errors.collect(problems):
        Augment.from_options(options)
    with errors.collect(problems):
        model_config(options['model'], fields)
    if problems:
        raise UserError(*problems)


def seed_noise(*key):
    """Seed torch's generator, the source of all noise inside a model, by integers that say where we are.

    SeedSequence mixes them into one number. A name goes in as its bytes, which are integers too.
    """
    sequence = np.random.SeedSequence(key)
    number = sequence.generate_state(1, np.uint64)[0]
    torch.manual_seed(int(number >> 1))                 # torch takes at most 63 bits


def gradients(net, split, micro_batches, next_rows, autocast, scale, extra_inputs):
    """Add up the gradient of scale x the summed loss over this process's micro-batches; return their sums.

    `next_rows`, of the next step, are read while the device computes.
    """
    total = {}
    for i, rows in enumerate(micro_batches):
        is_last = i == len(micro_batches) - 1
        if isinstance(net, DistributedDataParallel):    # the processes exchange gradients once per step
            net.require_backward_grad_sync = is_last
        rows_after = next_rows if is_last else micro_batches[i + 1]
        batch = split.batch(rows, rows_after)
        try:
            with autocast:
                sums = net(**batch, **extra_inputs)
            scaled = sums['loss'] * scale
            scaled.backward()
        except Exception as error:
            raise errors.with_advice(error, len(rows))      # out of memory: a smaller micro_batch_size
        total = processes.add(total, sums)
    return total


@torch.no_grad()
def evaluate(net, split, batch_size, autocast, seed, stop_requested, every=1):
    """Return the metrics over `split`, or over each every-th batch of it. Return None if stopped."""
    rank, world = processes.rank_and_world()
    batches = split.evaluation_batches(batch_size)[::every]
    n = len(batches)
    total = {}
    processes.broadcast_buffers(net)                    # BatchNorm's statistics are each process's own
    training = net.training
    net.eval()
    # All processes make the same number of turns, so that none waits for another. In the last turn one that
    # has no batch left evaluates an earlier one again, with weight 0.
    for turn in range(math.ceil(n / world)):
        i = turn * world + rank
        seed_noise(seed, i, *split.name.encode())
        batch = split.batch(batches[i % n], batches[(i + world) % n])
        with autocast:
            sums = net.forward(**batch)                 # skips torch.compile, which would not pay here
        total = processes.add(total, sums, weight=float(i < n))
        ask_now = world == 1 or turn % 16 == 0          # to ask other processes costs a message
        if ask_now and stop_requested():
            net.train(training)
            return None
    net.train(training)
    total = processes.all_reduce(total)
    return metrics_of(net, processes.to_host(total))


if __name__ == '__main__':
    # --- 1. The options. All is checked before out_dir is touched; a missing data set is prepared.
    settings = configurator.read_train(sys.argv[1:])
    run = Run(settings, start)
    options = settings.options
    globals().update(options)           # from here on batch_size etc. have the values that were given
    rank, world = processes.from_environment()
    device, dtype, compile, reasons = machine.resolve(device, dtype, compile)
    options.update(device=device, dtype=dtype, compile=compile)
    check_options(options, settings.fields, world)
    micro_batch_size = micro_batch_size or batch_size // world
    with run.clock_stopped():           # meta.json: splits, shapes, tokenizer, info for the model's Config
        meta = data.prepare_if_missing(dataset, prepare, verify)
    info = check_data(run.checkpoint, meta, options)
    config = model_config(model, settings.fields, info, dataset)

    # --- 2. The machine and the other processes.
    machine.set_torch_flags(device, dtype, threads, deterministic)
    options['threads'] = torch.get_num_threads()
    if 'RANK' in os.environ:
        device = processes.join(device)
        agreed = options | dataclasses.asdict(config) | data.hashes(meta)
        processes.check_agreement(agreed | {'checkpoint': run.first_step, 'code': code_hash()})
    autocast = torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != 'float32')

    # --- 3. The data, the model, its optimizers.
    Model = import_module(f'models.{model}').Model
    # The parameters of forward(self, image, label) name the arrays to load: image and label.
    fields = data.fields_of(Model.forward, meta)
    takes_progress = 'progress' in inspect.signature(Model.forward).parameters
    block_size = getattr(config, 'block_size', 0)
    augment = Augment.from_options(options)
    splits = data.load_splits(dataset, fields, block_size, device, pad_to, augment, run.print)
    train = splits['train']
    steps_per_epoch = train.steps_per_epoch(batch_size)
    if epochs:
        max_iters = max(1, round(epochs * steps_per_epoch))
    max_iters = run.limit['max_iters'] or max_iters     # max_minutes has lowered it before this resume
    warmup = warmup_steps(warmup_iters, warmup_fraction, max_iters)
    if warmup_iters >= max_iters:
        run.print(f'warmup_iters {warmup_iters} is cut to {warmup}, to fit {max_iters} steps')

    seed_noise(seed, *b'init')
    net = Model(config).to(device)
    if channels_last:
        net.to(memory_format=torch.channels_last)
    run.load_initial_weights(net, options, meta)
    trainable = [p for p in net.parameters() if p.requires_grad]
    buffers = saved_buffers(net).values()           # BatchNorm's statistics
    live = live_weights(net)                        # what the moving average follows, {name: tensor}
    ema_weights = copies(live) if ema else {}
    optimizers = make_optimizers(net, optimizer, learning_rate, weight_decay, (beta1, beta2), momentum, dtype,
                                 relative_lr, epsilon)
    state = State()
    if dtype == 'float16':
        # Unscaled, small gradients would become 0. GradScaler begins with 2^16 for a mean; our loss is a sum.
        state.scale = 2.0**16 / (micro_batch_size * max(block_size, 1))

    def micro_batches(step):
        """Return this process's rows of a step, an array (micro-batches, micro_batch_size)."""
        rows = train.rows(step, batch_size, seed).reshape(-1, world, micro_batch_size)
        return rows[:, rank]

    def stop_requested():
        """Return the number of the signal that asked this or another process to stop, or 0."""
        return processes.largest(run.signal, device)

    def evaluate_split(net, name, every=1):
        """Return the metrics of a split."""
        return evaluate(net, splits[name], micro_batch_size, autocast, seed, stop_requested, every)

    def save(name, **changes):
        """Save a checkpoint on the first process; return, on all of them, whether that worked."""
        checkpoint = pack(net, ema_weights, optimizers, state, run, options, config, meta)
        saved = run.save(name, checkpoint | changes)
        return bool(processes.from_first(saved, device))

    preview = partial(samples.preview, meta=meta, split=splits.get('val', train))

    def report_and_keep(metrics):
        """Print and log an evaluation on val; save best.pt, weights alone, if it is the best so far."""
        run.log('eval', step=state.step, split='val', **metrics)
        best = state.new_best(metrics, net.monitor)
        suffix = ', the best so far' if best else ''
        run.print(f'step {state.step}: val {format_metrics(metrics)}{suffix}')
        if best and not save('best.pt', best=best, ema={}, optimizers={}):
            best = None                                 # state.best describes the file that is there
        state.record(best)
        if sample_interval and state.step % sample_interval == 0 and state.step < max_iters:
            run.print(preview(net))

    def validate():
        """Evaluate on val, with the averaged weights if there are any; save last.pt."""
        swap(live, ema_weights)                         # up to the second swap, net holds the averages
        if 'val' in splits:
            metrics = evaluate_split(net, 'val')
            if metrics:                                 # else a signal came
                report_and_keep(metrics)
        elif state.step >= max_iters:                   # without val the last weights are the best
            best = {'name': net.monitor[0], 'value': None, 'step': state.step}
            if save('best.pt', best=best, ema={}, optimizers={}):
                state.record(best)
        swap(live, ema_weights)
        save('last.pt')
        run.restart_rate(state.step)

    if eval_only:
        if run.checkpoint:              # else init_from was hf:FOLDER, whose weights net already has
            load_weights(net, evaluated_weights(run.checkpoint))
        metrics = evaluate_split(net, eval_split)
        run.print(f'{eval_split} at step {run.first_step}: {format_metrics(metrics)}')
        processes.leave(0)
    if run.checkpoint:
        state = unpack(run.checkpoint, net, ema_weights, optimizers, dtype, state.scale)
    flops = world * machine.step_flops(net, train, micro_batches, state.step)
    description = describe(net, options | {'max_iters': max_iters}, config, meta, device, flops)
    run.open(state.step, steps_per_epoch, description)
    run.print(f'{model} with {description["parameters"]:,} parameters, {dataset} with {len(train):,} rows')
    run.print(reasons)
    if compile:
        torch._dynamo.config.optimize_ddp = False       # one graph, not one for each bucket of gradients
        net.compile(fullgraph=True, dynamic=train.ragged)
    wrapped = DistributedDataParallel(net, broadcast_buffers=False) if world > 1 else net
    # max_minutes: after 21 steps, or a quarter of the time, it times a part of an evaluation, a save and a
    # sample, and lowers max_iters to what still fits.
    time_limit = TimeLimit(max_minutes, run, splits, micro_batch_size, device,
                           partial(evaluate_split, net), partial(save, 'last.pt'), partial(preview, net))
    stopped = 0                 # the number of the signal that stopped the run
    if state.evaluation_due(eval_interval, max_iters):      # the last process was stopped before it
        validate()
        stopped = stop_requested()
    parts = micro_batches(state.step)

    # --- 4. The loop.
    while state.step < max_iters and not stopped and not state.out_of_patience(patience):
        # Where we are: the number of the step decides on its rows, noise and learning rate.
        step = state.step
        seed_noise(seed, step, rank)
        lr = learning_rate * lr_factor(step, schedule, warmup, max_iters, min_lr / learning_rate)
        for opt in optimizers:
            for group in opt.param_groups:
                group['lr'] = lr * group.get('scale', 1.0)
        next_parts = micro_batches(step + 1)
        old_buffers = [buffer.clone() for buffer in buffers]        # to restore if the step is not finite
        extra_inputs = {}
        if takes_progress:                  # a VAE weighs its KL divergence by it
            extra_inputs['progress'] = torch.full((), step / max_iters, device=device)

        # The gradient of (sum of losses) / (sum of counts) over the global batch. The mean is taken here,
        # once: the split into micro-batches and processes cannot change it.
        sums = gradients(wrapped, train, parts, next_parts[0], autocast, state.scale, extra_inputs)
        # Ctrl-C may reach one process only: its signal travels with the sums, without a message more.
        sums['stop'] = torch.full_like(sums['loss'], run.signal)
        sums = processes.all_reduce(sums)
        # p.grad is scale * d(sum of losses) / world, since DDP averages. Wanted is d(sum of losses) / count.
        factor = world / (sums['count'] * state.scale)
        grads = [p.grad for p in trainable]
        torch._foreach_mul_(grads, factor.float())
        norms = layer_norms(net) if (step + 1) % log_interval == 0 else {}
        sums |= norms                       # so that they need no copy to the CPU of their own
        sums['grad_norm'] = nn.utils.clip_grad_norm_(trainable, grad_clip or math.inf)
        sums = processes.to_host(sums)                      # the only time the CPU waits for the device
        stop = sums.pop('stop').item()
        grad_norm = sums.pop('grad_norm').item()
        norms = {name.removeprefix('norm of '): sums.pop(name).item() for name in norms}
        mean_loss = sums['loss'] / sums['count']
        objective = mean_loss.item()        # what is minimised; the loss of net.metrics has no smoothing
        finite = math.isfinite(grad_norm) and math.isfinite(objective)

        # The update. A step that is not finite counts but leaves no trace: a NaN would stay in BatchNorm's
        # running mean for ever.
        if finite:
            for opt in optimizers:
                opt.step()
            if ema:
                update_ema(ema_weights, live, ema, step)
        else:
            for buffer, old in zip(buffers, old_buffers):
                buffer.copy_(old)
        net.zero_grad()
        parts = next_parts
        state.step += 1
        state.adjust_scale(finite, dtype)

        # Records.
        if state.step % log_interval == 0 or not finite:
            run.log_step(state.step, max_iters, batch_size, **metrics_of(net, sums),
                         objective=objective, lr=lr, grad_norm=grad_norm, layer_norms=norms,
                         scale=state.scale, skipped=not finite, memory=peak_memory(device))
        if not finite and dtype != 'float16':       # under float16 this is how the scale finds its value
            run.print(f'WARNING: step {state.step} skipped: loss {objective}, gradient norm {grad_norm}')
        state.raise_if_diverged(dtype, out_dir, learning_rate)
        time_limit.count_step()
        if time_limit.due():
            max_iters = time_limit.decide(state.step, max_iters, eval_interval, config)
            warmup = warmup_steps(warmup_iters, warmup_fraction, max_iters)
            save('last.pt')                         # a resumed run keeps to what is decided
        if keep_interval and state.step % keep_interval == 0:
            save(f'step_{state.step}.pt')

        # Evaluation.
        if stop:
            stopped = stop_requested()      # which signal it was; the resumed run evaluates
        elif state.evaluation_due(eval_interval, max_iters):
            validate()
            stopped = stop_requested()
        elif run.save_due():                # not save(): it waits for all processes, whose clocks differ
            run.save('last.pt', pack(net, ema_weights, optimizers, state, run, options, config, meta))

    # --- 5. The end: test is read once, with the best weights; then a sample.
    if stopped:
        if not save('last.pt'):
            processes.leave(4)
        run.print(f'stopped at step {state.step} of {max_iters}, saved')
        run.print(f'to go on: {command(init_from="auto")}')
        processes.leave(128 + stopped)
    if state.best:
        lost = not is_whole(run.path / 'best.pt')
        if processes.largest(int(lost), device):        # all have looked before one writes it again
            run.print(f'WARNING: {run.path}/best.pt is damaged or gone; the last weights take its place')
            state.best = {'name': net.monitor[0], 'value': None, 'step': state.step}
            save('best.pt', optimizers={})
        best_net = build_model(load_checkpoint(run.path / 'best.pt'), device)
        if channels_last:
            best_net.to(memory_format=torch.channels_last)
        if 'test' in splits:
            metrics = evaluate_split(best_net, 'test')
            if metrics is None:                     # a signal came: the same command evaluates test again
                processes.leave(128 + stop_requested())
            run.log('eval', step=state.best['step'], split='test', **metrics)
            run.print(f'test, with the best weights on val: {format_metrics(metrics)}')
        run.print(preview(best_net))
    saved = save('last.pt', done=True)
    run.log('done', step=state.step, best=state.best)
    run.print(run.final_line(state.best, state.step))
    code = 0
    if target and not state.reaches(target, net.monitor):
        run.print(f'target missed: val {net.monitor[0]} is {state.best.get("value")}, asked for {target}')
        code = 7
    processes.leave(code if saved else 4)
