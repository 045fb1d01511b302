"""How fast a config trains on this machine: the time of a step and of its parts, rows and counts per second.

    python bench.py config/train_shakespeare.py --steps=30
    python bench.py config/train_shakespeare.py --n_head=6 --n_embd=384 --batch_size=16 --against=../nanoGPT
    python bench.py config/train_cifar10_cnn.py --against=plain

A step is train.py's: read rows, forward and backward, clip and update; the device is waited for around each
part. The last line compares with what one large matrix product reaches here, now, in the same precision.
--against times another loop in turns. A checkout of karpathy/nanoGPT: a GPT of the same shape, batch and
dropout, as its train.py runs it on this device: bfloat16 with a GPU, float32 without, AdamW, compiled if ours
is. plain: a model of pictures in the loop that most tutorials have: float32, not compiled, channels first,
the SGD of torch, and a torch DataLoader of two worker processes that take one picture after the other: they
mirror and crop it; one with a mask they decode first, both files, and change as ours are. The workers stand
still while it is our turn.
"""
import contextlib, dataclasses, importlib, inspect, itertools, json, math, multiprocessing, os, signal
import statistics, sys, time
os.environ.setdefault('GOMP_SPINCOUNT', '3000')     # as train.py
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import configurator, data, train
from configurator import ROOT, Refused
from core import machine
from data import picture
from data.augment import Augment

# --- the measurement; all other keys are train.py's
steps = 20          # steps that are timed, after three that are not
against = ''        # what to time in turns: plain, or a checkout of nanoGPT
record = ''         # a file like results/speed.json, to which this config's fraction of the peak is added


class Ours:
    """One step of a config, in timed parts."""

    def __init__(self, settings):
        keys = settings.knobs
        asked = (keys[name] for name in ('device', 'dtype', 'compile'))
        device, dtype, compile, self.words = configurator.resolve(*asked)
        self.meta = meta = data.ensure(keys['dataset'], keys['prepare'])
        module = importlib.import_module(f'models.{keys["model"]}')
        known = {field.name for field in dataclasses.fields(module.Config)}
        info = {key: value for key, value in meta['info'].items() if key in known}
        try:
            self.config, self.keys, self.device = module.Config(**settings.fields | info), keys, device
        except ValueError as error:
            raise Refused(*str(error).split('\n'))
        arguments = list(inspect.signature(module.Model.forward).parameters)[1:]
        self.progress = {'progress': torch.tensor(0.5, device=device)} if 'progress' in arguments else {}
        self.split = data.Split(keys['dataset'], 'train', [a for a in arguments if a != 'progress'],
                                getattr(self.config, 'block_size', 0), device, keys['pad_to'],
                                Augment(*map(keys.get, ('flip', 'shift', 'cutout', 'zoom', 'jitter'))))
        rows, part = keys['batch_size'], keys['micro_batch_size']
        if not 0 < rows <= len(self.split) or part < 0 or rows % (part or 1):
            raise Refused(f'batch_size {rows}: expected 1 to {len(self.split)} rows, and a multiple of '
                          f'micro_batch_size {part}')
        configurator.settle(device, dtype, keys['threads'])
        train.seed_noise(keys['seed'], *b'init')
        self.dtype, self.autocast_dtype = getattr(torch, dtype), dtype
        self.autocast = torch.autocast(device.split(':')[0], self.dtype, enabled=dtype != 'float32')
        self.net = module.Model(self.config).to(device)
        if keys['channels_last']:
            self.net.to(memory_format=torch.channels_last)
        self.optimizers = train.make_optimizers(self.net, keys['optimizer'], keys['learning_rate'],
                                                keys['weight_decay'], (keys['beta1'], keys['beta2']),
                                                keys['momentum'], dtype)
        self.weights = [p for p in self.net.parameters() if p.requires_grad]
        self.compile = compile
        if compile:
            self.net.compile(fullgraph=True, dynamic=bool(self.split.ragged))

    def batches(self, step):
        size = self.keys['micro_batch_size'] or self.keys['batch_size']
        return self.split.rows(step, self.keys['batch_size'], self.keys['seed']).reshape(-1, size)

    def step(self, step, clock):
        with clock('data'):
            batches = [self.split.batch(rows) for rows in self.batches(step)]
        with clock('forward and backward'):
            for batch in batches:
                with self.autocast:
                    sums = self.net(**batch, **self.progress)
                (sums['loss'] / sums['count'] / len(batches)).backward()
        with clock('update'):
            nn.utils.clip_grad_norm_(self.weights, self.keys['grad_clip'] or float('inf'))
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return sums['count'].item() * len(batches), (sums['loss'] / sums['count']).item()


    def flops(self):
        """Return the FLOPs of a step, the mean of a few where rows have different lengths."""
        steps = range(4) if self.split.ragged else range(1)
        counted = [rows for step in steps for rows in self.batches(step)]
        return machine.count_flops(self.net, self.split, counted, self.progress) / len(steps)

    def steps_and_evaluations(self, step_seconds):
        """Return the steps of the whole run, and the time of its evaluations as a number of steps."""
        keys = self.keys
        splits = {'train': self.split}
        for name in self.meta['splits']:
            splits[name] = data.Split(keys['dataset'], name, list(self.split.kind), self.split.block_size,
                                      self.device, keys['pad_to'])
        steps = keys['max_iters']
        if keys['epochs']:
            steps = round(keys['epochs'] * (len(self.split) // keys['batch_size']))
        seconds = 0
        for name, times in ('val', math.ceil(steps / keys['eval_interval'])), ('test', 1):
            if name not in splits:
                continue
            batches = splits[name].evaluation(keys['micro_batch_size'] or keys['batch_size'])
            every = max(1, len(batches) // 4)
            begun = time.perf_counter()
            train.evaluate(self.net, splits[name], len(batches[0]), self.autocast, self.progress, 0,
                           lambda: 0, every)
            seconds += times * (time.perf_counter() - begun) * len(batches) / len(batches[::every])
        return steps, seconds / step_seconds


def write_record(file, ours, argv, flops, seconds, peak):
    """Add to a JSON file what core/machine.py needs to estimate this config's time on another machine."""
    path = Path(file)
    records = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    configs = [argument for argument in argv if argument.endswith('.py')]
    name = configs[0] if configs else 'config/train_stdlib.py'
    steps, evaluation = ours.steps_and_evaluations(seconds)
    entry = records.setdefault(name, {})
    entry |= {'steps': steps, 'evaluation_steps': round(evaluation, 1), 'flops': flops}
    entry[ours.autocast_dtype] = {'fraction_of_peak': round(flops / seconds / peak, 4), 'peak': round(peak),
                                  'step_seconds': round(seconds, 5), 'threads': torch.get_num_threads()}
    path.write_text(json.dumps(records, indent=1) + '\n', encoding='utf-8')


class NanoGPT:
    """One step of nanoGPT's train.py at the shape of `ours`, on the same rows; to read them is not timed."""
    name, average = 'nanoGPT', staticmethod(statistics.median)

    def __init__(self, folder, ours):
        if not (Path(folder) / 'model.py').exists():
            raise Refused(f'--against={folder}: expected a checkout of nanoGPT, found no model.py')
        if ours.keys['model'] != 'gpt':
            raise Refused(f'--against={folder}: expected the model gpt, got {ours.keys["model"]}')
        sys.path.append(str(folder))
        gpt, keys, config = importlib.import_module('model'), ours.keys, ours.config
        self.net = gpt.GPT(gpt.GPTConfig(
            block_size=config.block_size, vocab_size=config.vocab_size, n_layer=config.n_layer,
            n_head=config.n_head, n_embd=config.n_embd, dropout=config.dropout, bias=False)).to(ours.device)
        kind = ours.device.split(':')[0]
        self.optimizer = self.net.configure_optimizers(0.1, 1e-3, (0.9, 0.99), kind)
        if ours.compile:
            self.net.compile()
        self.autocast = contextlib.nullcontext() if kind == 'cpu' else torch.autocast(kind, torch.bfloat16)
        self.ours = ours

    def step(self, step, clock):
        tokens = self.ours.split.batch(self.ours.batches(step).reshape(-1))['tokens']
        with clock(self.name):
            with self.autocast:
                _, loss = self.net(tokens[:, :-1], tokens[:, 1:].contiguous())
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


class Pictures:
    """Pictures with labels as torch's DataLoader takes them: one at a time, as floats, mirrored or not,
    padded, cropped, and bytes again, because these models normalise by themselves."""

    def __init__(self, ours):
        self.images, self.others = (ours.split.arrays[field].cpu() for field in ours.split.kind)
        self.shift, self.size = ours.keys['shift'], self.images.shape[2:]

    def __len__(self):
        return len(self.images)

    def moved(self, image):
        (H, W), image = self.size, image.float() / 255
        image = image.flip(2) if torch.rand(()) < 0.5 else image
        y, x = torch.randint(2 * self.shift + 1, (2,)).tolist()
        image = nn.functional.pad(image, [self.shift] * 4)[:, y:y + H, x:x + W]
        return (image * 255).round().byte()

    def __getitem__(self, row):
        return self.moved(self.images[row]), int(self.others[row])


class Files(Pictures):
    """Pictures with masks, both decoded and resized each time from the files that their prepare.py left, then
    changed at random as those of `ours`."""

    def __init__(self, ours):
        super().__init__(ours)
        self.augment, self.mean = ours.split.augment, ours.split.mean
        raw = data.folder(ours.keys['dataset']) / 'raw'
        self.masks = sorted((raw / 'annotations' / 'trimaps').glob('*.png'))
        self.images = [raw / 'images' / f'{mask.stem}.jpg' for mask in self.masks]
        if not self.masks:
            raise Refused(f'--against=plain: expected files to decode in {raw}, found none')

    def __getitem__(self, row):
        image = picture.fitted(picture.rgb(self.images[row]), self.size)
        mask = picture.fitted(picture.codes(self.masks[row]), self.size, picture.Image.Resampling.NEAREST)
        both = {'image': torch.from_numpy(image)[None], 'mask': torch.from_numpy(mask)[None]}
        if self.augment:
            drawn = self.augment.draw(np.array([row]), 0, int(torch.randint(2**31, ())), 0)
            both = self.augment(both, drawn, self.mean)
        return both['image'][0], both['mask'][0]


class Plain:
    """One step of the usual loop over pictures, of the model of `ours`."""
    name, average = 'plain', staticmethod(statistics.fmean)     # batches come two at a time

    def __init__(self, ours):
        loaded = {('image', 'label'): Pictures, ('image', 'mask'): Files}.get(tuple(ours.split.kind))
        if not loaded:
            raise Refused('--against=plain: expected a model of images and labels or masks, got '
                          + ours.keys['model'])
        self.net, self.device = type(ours.net)(ours.config).to(ours.device), ours.device
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        loader = DataLoader(loaded(ours), ours.keys['batch_size'], shuffle=True, num_workers=2,
                            drop_last=True)
        self.batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def step(self, step, clock):
        with clock(self.name):
            sums = self.net(*(values.to(self.device) for values in next(self.batches)))
            (sums['loss'] / sums['count']).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return (sums['loss'] / sums['count']).item()


@contextlib.contextmanager
def alone():
    """Worker processes stand still meanwhile."""
    workers = multiprocessing.active_children()
    try:
        yield [os.kill(worker.pid, signal.SIGSTOP) for worker in workers]
    finally:                                    # one that stood still could not be ended
        [os.kill(worker.pid, signal.SIGCONT) for worker in workers]


if __name__ == '__main__':
    names = 'steps', 'against', 'record', 'help', 'h'
    own = [a for a in sys.argv[1:] if a.lstrip('-').partition('=')[0] in names]
    globals().update(configurator.read(__file__, own).knobs)
    if steps < 1:
        raise Refused(f'steps must be at least 1, got {steps}')
    rest = [a for a in sys.argv[1:] if a not in own]
    ours = Ours(configurator.read(ROOT / 'train.py', rest, ROOT / 'config' / 'train_stdlib.py'))
    theirs = Plain(ours) if against == 'plain' else NanoGPT(against, ours) if against else None
    times = {}

    @contextlib.contextmanager
    def clock(name):
        """Time a part of a step, the device idle before and after."""
        machine.synchronize(ours.device)
        begun = time.perf_counter()
        yield
        machine.synchronize(ours.device)
        times.setdefault(name, []).append(time.perf_counter() - begun)

    counts, losses = 0, []
    for step in range(-3, steps):
        if step == 0:
            times.clear()
            counts = 0
        with alone():
            count, loss = ours.step(step + 3, clock)
        counts += count
        if theirs:
            configurator.keep_memory(False)     # nobody does that for them
            other = theirs.step(step + 3, clock)
            configurator.keep_memory()
        losses.append((loss, other if theirs else loss))

    parts = {name: statistics.median(seconds) for name, seconds in times.items()
             if not theirs or name != theirs.name}
    totals = list(map(sum, zip(*(times[name] for name in parts))))
    whole = statistics.median(totals)
    rows = ours.keys['batch_size']
    print(f'{ours.keys["model"]}, {sum(p.numel() for p in ours.weights) / 1e6:.2f} M parameters, '
          f'{rows} rows a step; {ours.words}, {torch.get_num_threads()} threads')
    print(f'{whole * 1e3:.1f} ms a step (median of {steps}): {rows / whole:,.0f} rows and '
          f'{counts / steps / whole:,.0f} counts (tokens, images) a second')
    for name, seconds in parts.items():
        print(f'  {name}: {seconds * 1e3:.2f} ms, {seconds / whole:.1%}')
    flops = ours.flops()
    with alone():
        best = machine.peak_flops(ours.device, ours.dtype)
    print(f'{flops / 1e9:.1f} GFLOP a step: {flops / whole / best:.0%} of a matrix product\'s '
          f'{best / 1e12:.2f} TFLOP/s')
    if record:
        write_record(record, ours, rest, flops, whole, best)
    if theirs:
        other = theirs.average(times[theirs.name])
        print(f'{theirs.name}, in turns: {other * 1e3:.1f} ms a step, {rows / other:,.0f} rows a second; '
              f'{other / theirs.average(totals):.2f} x ours')
        one, two = map(statistics.fmean, zip(*losses[-10:]))
        print(f'loss to minimise in the last ten of {len(losses)} steps: {one:.4f}, {theirs.name} {two:.4f}')
