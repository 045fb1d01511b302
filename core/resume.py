"""What a resumed run may change: the options of the checkpoint and those that were given become one."""
import dataclasses
from importlib import import_module

import configurator
import data
from configurator import ROOT
from core import errors, machine, transfer
from core.checkpoint import find_checkpoint, load_checkpoint
from core.errors import UserError
from core.facts import TAKEN, command, quote
from core.state import State
from data import tokenizers

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
    check_saved(saved)
    now = options | fields
    given = {}
    for name, where in settings.given.items():
        if name not in COMMAND and now[name] != 'auto':
            given[name] = where

    TAKEN.update(taken(settings, checkpoint))

    # 1. What decides on shapes and rows may not change. The place of the data may: their hashes are compared.
    moved = 'dataset' in given and has_hashes(options['dataset'], checkpoint)
    changes = {}
    problems = []
    for name, where in given.items():
        if now[name] == saved.get(name):
            continue
        changes[name] = f'{name}: {saved.get(name)!r} there, {now[name]!r} given in {where}'
        decides_on_shapes = name in fields and not isinstance(fields[name], float)      # dropout does not
        fixed = name in FIXED and not (moved and name in ('dataset', 'prepare'))
        if (fixed or decides_on_shapes) and not options['eval_only']:
            problems.append(changes[name])
    if mode not in MODES and not options['eval_only'] and mode != saved['init_from']:
        problems.append(f'init_from: {saved["init_from"]!r} there, {mode!r} given')
    if problems:
        ways_out = [f'to keep both: {command(out_dir=options["out_dir"] + "_2")}']
        if mode in MODES and saved['init_from'] in MODES:       # scratch would lose the weights that it names
            ways_out.insert(0, f'to start again, that run moved aside: {command(init_from="scratch")}')
        raise UserError(f'{path} is of another run:', *sorted(problems), *ways_out)

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
    folder = data.folder(options['dataset'])
    # A stranger's checkpoint must not make this process run a prepare.py, or choose its options.
    given_here = 'dataset' in given and ('prepare' in given or not options['prepare'])
    if not given_here and not (folder / 'meta.json').exists():
        to_prepare = []
        if (folder / 'prepare.py').exists():
            to_prepare = [f'to prepare it: python {quote(folder / "prepare.py")}']
        raise UserError(f'{path} was trained on {folder}, which is not there', *to_prepare,
                        f'if it was moved: {command(dataset="FOLDER")}', code=3)

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


def train_options():
    """Return {name: Option} of train.py without those of a model."""
    options = configurator.parse_options(ROOT / 'train.py')
    return options | configurator.parse_options(ROOT / 'data' / 'augment.py', 'Augment')


def check_saved(saved):
    """Raise UserError unless the options and Config fields that a checkpoint has are legal."""
    model = saved['model']
    if model not in configurator.model_names():
        known = ', '.join(configurator.model_names())
        raise UserError(f'the checkpoint has the model {model!r}; there are {known}')
    options = train_options() | configurator.parse_options(ROOT / 'models' / f'{model}.py', 'Config')
    problems = []
    for name in saved.keys() & options.keys():
        with errors.collect(problems):
            options[name].convert(saved[name])
    if problems:
        raise UserError('the checkpoint has illegal values:', *sorted(problems))


def taken(settings, checkpoint):
    """Return {name: value} of the options that a run has from its checkpoint, not from the command line.

    settings: of the command line alone. What is left out is a command's or follows from the machine or data.
    """
    saved = checkpoint['keys']
    if settings.options['model'] != saved['model'] and 'model' in settings.given:
        return {}               # what was given is of another model, with other fields
    config = import_module(f'models.{saved["model"]}').Config
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    alone = fields | settings.options | settings.fields
    left_out = {*COMMAND, *MACHINE, *settings.given, *checkpoint.get('info', {})}
    found = {}
    for name, value in (saved | checkpoint['config']).items():
        if name in alone and name not in left_out and value != alone[name]:
            found[name] = value
    if saved.get('init_from', 'auto') not in MODES:     # the run began with other weights
        found['init_from'] = saved['init_from']
    return found


def has_hashes(dataset, checkpoint):
    """Return whether a data set is there and has the content that the checkpoint's run was trained on."""
    try:
        return data.hashes(data.check(dataset)) == checkpoint.get('data')
    except UserError:
        return False


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
    """Return the info of the data set that fills the model's Config.

    Raises UserError if the data set is not the checkpoint's, or lacks a split that an option needs. A trained
    model may be evaluated on other data whose tokens and classes are the same; its mean and std are its own.
    """
    dataset = options['dataset']
    info = meta['info']
    different = checkpoint and transfer.report(checkpoint, meta)
    if checkpoint and checkpoint['data'] and (checkpoint['data'] != data.hashes(meta) or different):
        other = options['eval_only'] and dataset != checkpoint['keys']['dataset']
        if not other:
            advice = '' if options['eval_only'] else f': {command(init_from="scratch")}'
            because = f' ({different})' if different else ''
            trained = f'what {options["out_dir"]} was trained on'
            raise UserError(f'{dataset} is not {trained}{because}{advice}', code=3)
        if different:
            raise UserError(f'the run cannot be evaluated on {dataset}: {different}', code=3)
        own = checkpoint['info']
        info = info | {name: own[name] for name in ('mean', 'std') if name in own}
    problems = []
    try:
        if meta['tokenizer']:
            tokenizers.load(meta['tokenizer']).decode([info['vocab_size'] - 1])
    except (LookupError, ValueError):
        ids = info.get('vocab_size')
        raise UserError(f'the tokenizer of {dataset} does not fit its {ids} ids: prepare it again', code=3)
    if options['target'] and 'val' not in meta['splits']:
        problems.append(f'target is a value on val, which {dataset} does not have')
    if options['eval_only'] and options['eval_split'] not in meta['splits']:
        known = ', '.join(meta['splits'])
        problems.append(f'eval_split {options["eval_split"]!r}: {dataset} has {known}')
    if problems:
        raise UserError(*problems)
    return info


def finished_code(options, checkpoint):
    """Return the exit code of a command whose run is finished: 0, or 7 if it missed the target."""
    monitor = import_module(f'models.{checkpoint["keys"]["model"]}').Model.monitor
    missed = options['target'] and not State(best=checkpoint['best']).reaches(options['target'], monitor)
    return 7 if missed else 0


def has_steps_left(options, checkpoint, limit):
    """Return whether a finished run has steps left with the options that are given now."""
    saved = checkpoint['keys']
    if limit['max_iters']:              # the same time limit ends it at the same step
        return False
    if options['epochs']:
        out_of_patience = 0 < saved['patience'] <= checkpoint['evals_since_best']
        return options['epochs'] > saved['epochs'] or out_of_patience
    return options['max_iters'] > checkpoint['step']
