"""What a resumed run may change: the options of the checkpoint and those that were given become one."""
import data
from core import machine
from core.checkpoint import find_checkpoint, load_checkpoint
from core.errors import UserError
from core.facts import command

MODES = 'auto', 'scratch', 'resume'         # of init_from; anything else is a path
# Options by what a resumed run may do with them:
# (FIXED: never change, for they decide on the rows, the shapes and the optimizer's state)
FIXED = 'model dataset prepare seed batch_size pad_to optimizer'.split()
MACHINE = 'device dtype compile threads'.split()        # may change with the machine
LENGTH = 'max_iters epochs max_minutes'.split()         # may change: the number of steps
COMMAND = 'out_dir init_from eval_only eval_split target verify'.split()    # a command's, not a run's


def merge(settings, checkpoint, path, mode):
    """Let the options of the checkpoint in `path` fill those of `settings` that were not given.

    Returns a line for each option that changes, and the time limit: {'start': seconds, 'max_iters': steps}.
    Raises UserError if what was given makes it another run. `mode` is the init_from that was given.
    """
    options = settings.options
    fields = settings.fields
    saved = checkpoint['keys'] | checkpoint['config']
    now = options | fields
    given = {}
    for name, where in settings.given.items():
        if name not in COMMAND and now[name] != 'auto':
            given[name] = where

    # 1. What decides on shapes and rows may not change.
    changes = {}
    errors = []
    for name, where in given.items():
        if now[name] == saved.get(name):
            continue
        changes[name] = f'{name}: {saved.get(name)!r} there, {now[name]!r} given in {where}'
        decides_on_shapes = name in fields and not isinstance(fields[name], float)      # dropout does not
        if (name in FIXED or decides_on_shapes) and not options['eval_only']:
            errors.append(changes[name])
    if mode not in MODES and not options['eval_only'] and mode != saved['init_from']:
        errors.append(f'init_from: {saved["init_from"]!r} there, {mode!r} given')
    if errors:
        raise UserError(f'{path} is of another run:', *sorted(errors),
                        f'to start again, that run moved aside: {command(init_from="scratch")}',
                        f'to keep both: {command(out_dir=options["out_dir"] + "_2")}')

    # 2. What depends on the machine is decided again if the device is missing here, or if asked ('auto').
    elsewhere = saved.get('device', 'cpu').split(':')[0] not in machine.devices()
    decided_again = [name for name in MACHINE if elsewhere or name in settings.given]

    # 3. All else that was not given stays as it was.
    for name, value in checkpoint['keys'].items():
        if name in options and name not in COMMAND and name not in given and name not in decided_again:
            options[name] = value
    changed_fields = {name: value for name, value in fields.items() if name in given}
    settings.fields = checkpoint['config'] | changed_fields
    options['init_from'] = saved['init_from']       # how the run began; `mode` is this command's

    # 4. With the same length the run ends at the same step. With another one max_minutes count from here.
    lines = list(changes.values())
    limit = {'start': checkpoint['seconds'], 'max_iters': 0}
    if all(options[name] == saved.get(name) for name in LENGTH):
        limit = checkpoint.get('limit', {'start': 0.0, 'max_iters': 0})
    elif options['max_minutes']:
        lines.append(f'max_minutes count from step {checkpoint["step"]}')
    if elsewhere:
        lines.append(f'{saved["device"]} is not here')
    return lines, limit


def initial_weights(source, settings):
    """Return the checkpoint whose weights a new run begins with: of a run, a .pt file or hf:FOLDER.

    hf:FOLDER also gives the architecture: fields of the model's Config that were not given take its values.
    """
    checkpoint = load_checkpoint(find_checkpoint(source))
    if source.startswith('hf:'):
        model = checkpoint['keys']['model']
        if settings.options['model'] != model:
            raise UserError(f'{source} is a {model}: give --model={model}')
        given = {name: value for name, value in settings.fields.items() if name in settings.given}
        settings.fields = checkpoint['config'] | given
    return checkpoint


def check_data(checkpoint, meta, options):
    """Raise UserError if the data set is not the checkpoint's, or lacks a split that an option needs."""
    dataset = options['dataset']
    if checkpoint and checkpoint['data'] and checkpoint['data'] != data.hashes(meta):
        advice = '' if options['eval_only'] else ': --init_from=scratch'
        raise UserError(f'{dataset} is not what {options["out_dir"]} was trained on{advice}', code=3)
    problems = []
    if options['target'] and 'val' not in meta['splits']:
        problems.append(f'target is a value on val, which {dataset} does not have')
    if options['eval_only'] and options['eval_split'] not in meta['splits']:
        known = ', '.join(meta['splits'])
        problems.append(f'eval_split {options["eval_split"]!r}: {dataset} has {known}')
    if problems:
        raise UserError(*problems)


def has_steps_left(options, checkpoint, limit):
    """Return whether a finished run has steps left with the options that are given now."""
    saved = checkpoint['keys']
    if limit['max_iters']:              # the same time limit ends it at the same step
        return False
    if options['epochs']:
        out_of_patience = 0 < saved['patience'] <= checkpoint['evals_since_best']
        return options['epochs'] > saved['epochs'] or out_of_patience
    return options['max_iters'] > checkpoint['step']
