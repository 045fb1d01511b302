"""Where a run is, and what a checkpoint holds of it: pack writes what unpack reads."""
import dataclasses
import math

import data
from core.checkpoint import FORMAT, load_weights
from core.facts import versions


@dataclasses.dataclass
class State:
    """Where a run is: with the weights and the optimizers' moments, all that it takes to go on."""
    step: int = 0               # steps done
    evaluated: int = 0          # the step of the last evaluation
    best: dict = dataclasses.field(default_factory=dict)    # name, value and step of the best evaluation
    evals_since_best: int = 0
    scale: float = 1.0          # of the loss; only float16 needs one other than 1
    good_steps: int = 0         # in a row with a finite gradient
    bad_steps: int = 0          # in a row without

    def count(self, finite, dtype):
        """Count a step; under float16 set the scale of the next loss, as torch's GradScaler does."""
        self.step += 1
        self.good_steps = self.good_steps + 1 if finite else 0
        self.bad_steps = 0 if finite else self.bad_steps + 1
        if dtype == 'float16' and not finite:
            self.scale /= 2
        elif dtype == 'float16' and self.good_steps % 2000 == 0:
            self.scale *= 2

    def record(self, metrics, monitor):
        """Record an evaluation and return whether it is the best; `monitor` is (metric, 'min' or 'max')."""
        name, direction = monitor
        value = metrics[name]
        if not self.best:
            improved = math.isfinite(value)
        elif direction == 'max':
            improved = value > self.best['value']
        else:
            improved = value < self.best['value']
        self.evaluated = self.step
        self.evals_since_best += 1
        if improved:
            self.best = {'name': name, 'value': value, 'step': self.step}
            self.evals_since_best = 0
        return improved

    def reaches(self, target, monitor):
        """Return whether the best evaluation is at least as good as `target`."""
        if not self.best:
            return False
        if monitor[1] == 'min':
            return self.best['value'] <= target
        return self.best['value'] >= target


def pack(net, ema_weights, optimizers, state, run, options, config, meta, **changes):
    """Return a checkpoint: all that one needs to go on, or to use the model without the run and the data."""
    return {'format': FORMAT, 'model': net.state_dict(), 'ema': ema_weights,
            'optimizers': [optimizer.state_dict() for optimizer in optimizers],
            **dataclasses.asdict(state), 'done': False, 'limit': run.limit, 'seconds': run.seconds,
            'keys': options, 'config': dataclasses.asdict(config), 'info': meta['info'],
            'tokenizer': meta['tokenizer'], 'data': data.hashes(meta), 'versions': versions(), **changes}


def unpack(checkpoint, net, ema_weights, optimizers, dtype, first_scale):
    """Load what pack has written into `net`, the averages and the optimizers; return the State."""
    load_weights(net, checkpoint['model'])
    for own, saved in zip(ema_weights, checkpoint['ema']):
        own.copy_(saved)
    for own, saved in zip(optimizers, checkpoint['optimizers'], strict=True):
        groups = own.state_dict()['param_groups']       # a new learning rate or weight decay shall apply
        own.load_state_dict({'state': saved['state'], 'param_groups': groups})
    state = State(**{field.name: checkpoint[field.name] for field in dataclasses.fields(State)})
    if checkpoint['keys']['dtype'] != dtype:        # another dtype needs another scale
        state.scale = first_scale
    if checkpoint['done']:
        state.evals_since_best = 0      # a finished run that is trained further starts with fresh patience
    return state
