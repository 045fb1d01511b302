"""Where a run is, and what a checkpoint holds of it: pack writes what unpack reads."""
import dataclasses
import math

import data
from core import processes
from core.checkpoint import FORMAT, load_checkpoint, load_weights
from core.errors import UserError
from core.facts import machine_name, versions
from core.migration import name_averages, name_states


@dataclasses.dataclass
class State:
    """Where a run is: all that it takes to resume, besides the weights and the optimizers' states."""
    step: int = 0               # steps done
    evaluated: int = 0          # the step of the last evaluation
    best: dict = dataclasses.field(default_factory=dict)    # name, value and step of the best evaluation
    evals_since_best: int = 0
    scale: float = 1.0          # of the loss; only float16 needs one other than 1
    good_steps: int = 0         # consecutive steps with a finite gradient
    bad_steps: int = 0          # consecutive steps without

    def evaluation_due(self, eval_interval, max_iters):
        """Return whether the weights as they are should be evaluated and have not been."""
        at_interval = self.step % eval_interval == 0
        at_end = self.step >= max_iters         # not ==: max_iters may have been lowered below this step
        return self.step > self.evaluated and (at_interval or at_end)

    def out_of_patience(self, patience):
        """Return whether there have been `patience` evaluations without a new best; 0: never."""
        return 0 < patience <= self.evals_since_best

    def adjust_scale(self, finite, dtype):
        """Count good and bad steps; under float16 set the next loss's scale, as torch's GradScaler does."""
        self.good_steps = self.good_steps + 1 if finite else 0
        self.bad_steps = 0 if finite else self.bad_steps + 1
        if dtype == 'float16' and not finite:
            self.scale /= 2
        elif dtype == 'float16' and self.good_steps % 2000 == 0:
            self.scale *= 2

    def raise_if_diverged(self, dtype, out_dir, learning_rate):
        """Raise UserError if ten steps in a row had no finite gradient; under float16, if no scale helps."""
        if self.scale < 1e-3 or self.bad_steps >= 10 and dtype != 'float16':
            raise UserError(f'diverged: no finite gradient in {self.bad_steps} steps, up to {self.step}',
                            f'{out_dir} keeps what was saved before',
                            f'try --learning_rate={learning_rate / 3:.1g}', code=6)

    def new_best(self, metrics, monitor):
        """Return {name, value, step} if these metrics are the best so far, else None.

        monitor: (metric, 'min' or 'max').
        """
        name, direction = monitor
        value = metrics[name]
        if self.best.get('value') is None:
            improved = math.isfinite(value)
        elif direction == 'max':
            improved = value > self.best['value']
        else:
            improved = value < self.best['value']
        return {'name': name, 'value': value, 'step': self.step} if improved else None

    def record(self, best):
        """Record that these weights have been evaluated; best: what new_best has returned."""
        self.evaluated = self.step
        self.evals_since_best += 1
        if best:
            self.best = best
            self.evals_since_best = 0

    def reaches(self, target, monitor):
        """Return whether the best evaluation is at least as good as `target`."""
        if self.best.get('value') is None:      # never evaluated, or its file was lost
            return False
        if monitor[1] == 'min':
            return self.best['value'] <= target
        return self.best['value'] >= target


def saved_buffers(net):
    """Return the buffers that a checkpoint holds, by name: BatchNorm's statistics. Others are constants."""
    saved_names = net.state_dict().keys()
    return {name: buffer for name, buffer in net.named_buffers() if name in saved_names}


def live_weights(net):
    """Return what a moving average follows, by name: the trainable weights and BatchNorm's statistics."""
    live = {name: p for name, p in net.named_parameters() if p.requires_grad}
    for name, buffer in saved_buffers(net).items():
        if buffer.is_floating_point():
            live[name] = buffer
    return live


def copies(tensors):
    """Return copies of {name: tensor}, outside of any gradient."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def all_names(net, ema_weights):
    """Return the averages under every name that their weight has in net.state_dict(): two if it is tied."""
    name_of = {id(tensor): name for name, tensor in live_weights(net).items()}
    averages = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        live_name = name_of.get(id(tensor))
        if live_name in ema_weights:
            averages[name] = ema_weights[live_name]
    return averages


def optimizer_states(net, optimizers):
    """Return what the optimizers remember of each weight: {name: {'exp_avg': tensor, ...}}."""
    name_of = {p: name for name, p in net.named_parameters()}
    states = {}
    for optimizer in optimizers:
        for p, state in optimizer.state.items():
            states[name_of[p]] = dict(state)
    return states


def lr_scales(net, optimizers):
    """Return {name of a weight: the scale of its learning rate}, where its group has one (relative_lr)."""
    name_of = {p: name for name, p in net.named_parameters()}
    scales = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group['params']:
                if 'scale' in group:
                    scales[name_of[p]] = group['scale']
    return scales


def load_optimizer_states(net, optimizers, states, scales):
    """Load what optimizer_states and lr_scales have returned. Raises UserError for what does not fit.

    All else of a group, such as the learning rate, is left as it is: a new one shall apply.
    """
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    if states:                          # else the run was saved before its first step
        check_names_and_shapes(trained, states)
    name_of = {p: name for name, p in trained.items()}
    for optimizer in optimizers:
        own = optimizer.state_dict()    # numbers the weights in the order of the groups
        for group, own_group in zip(optimizer.param_groups, own['param_groups']):
            for p, number in zip(group['params'], own_group['params']):
                if states:
                    own['state'][number] = states[name_of[p]]
                if 'scale' in group:    # computed from the initial weights, which net no longer has
                    own_group['scale'] = scales.get(name_of[p], group['scale'])
        optimizer.load_state_dict(own)


def check_names_and_shapes(weights, states):
    """Raise UserError unless `states`, {name: {key: tensor}}, fit `weights`, {name: tensor}.

    An optimizer's step does not check shapes: it would write beyond the end of a shorter tensor. A number,
    such as the count of steps, fits any weight.
    """
    problems = []
    for name in sorted(weights.keys() ^ states.keys()):
        problems.append(f'{name}: {"missing in" if name in weights else "only in"} the checkpoint')
    for name in sorted(weights.keys() & states.keys()):
        for key, value in states[name].items():
            if value is not None and value.dim() and value.shape != weights[name].shape:
                problems.append(f'{key} of {name}: the model has {tuple(weights[name].shape)}, '
                                f'the checkpoint {tuple(value.shape)}')
    if problems:
        raise UserError('the checkpoint does not fit the model:', *problems[:10])


def is_whole(path):
    """Return whether a file is a checkpoint that can be read."""
    try:
        load_checkpoint(path)
    except (UserError, OSError):
        return False
    return True


def pack(net, ema_weights, optimizers, state, run, options, config, meta):
    """Return a checkpoint: all that one needs to go on, or to use the model without the run and the data."""
    return {'format': FORMAT, 'model': net.state_dict(), 'ema': all_names(net, ema_weights),
            'optimizers': optimizer_states(net, optimizers), 'lr_scales': lr_scales(net, optimizers),
            **dataclasses.asdict(state), 'done': False, 'limit': run.limit, 'seconds': run.seconds,
            'keys': options, 'config': dataclasses.asdict(config), 'info': meta['info'],
            'tokenizer': meta['tokenizer'], 'data': data.hashes(meta), 'versions': versions()}


def describe(net, options, config, meta, device, flops):
    """Return what the first line of log.jsonl says of a run; flops: of a step, on all processes."""
    _, world = processes.rank_and_world()
    return {'keys': options, 'config': dataclasses.asdict(config), 'data': data.hashes(meta),
            'parameters': sum(p.numel() for p in net.parameters()), 'flops': flops,
            'monitor': net.monitor, 'processes': world, 'machine': machine_name(device),
            'versions': versions()}


def unpack(checkpoint, net, ema_weights, optimizers, dtype, first_scale):
    """Load what pack has written into `net`, the averages and the optimizers; return the State."""
    load_weights(net, checkpoint['model'])
    live = live_weights(net)
    averages = name_averages(checkpoint['ema'], live)
    if not averages:                    # the run has had none so far: they begin with its weights
        averages = live
    check_names_and_shapes(live, {name: {'average': averages[name]} for name in live if name in averages})
    for name, average in ema_weights.items():
        average.copy_(averages[name])
    states, scales = checkpoint['optimizers'], checkpoint.get('lr_scales', {})
    if states and isinstance(states, list):         # of an earlier revision, without names
        states, scales = name_states(states, net, optimizers)
    load_optimizer_states(net, optimizers, states, scales)
    state = State(**{field.name: checkpoint[field.name] for field in dataclasses.fields(State)})
    if checkpoint['keys']['dtype'] != dtype:        # another dtype needs another scale
        state.scale = first_scale
    if checkpoint['done']:
        state.evals_since_best = 0      # a finished run that is trained further starts with fresh patience
    return state
