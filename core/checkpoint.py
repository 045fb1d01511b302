"""Checkpoints: one file that is either whole or not there, and a trained model in one line.

    model = checkpoint.load('out/shakespeare')      # the best weights, in eval mode

A checkpoint is a dict of plain tensors, numbers, strings, lists and dicts, so torch.load(weights_only=True)
reads it and nothing in it is executed. It is written to a temporary file, forced to the disk and read back
before it takes its name. A run folder has best.pt (the best of the monitored metric on val), last.pt (to
resume from), last.pt.previous (the one before) and step_N.pt (every keep_interval steps).
"""
import contextlib
import dataclasses
import os
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import torch

import configurator
from core.errors import FILE_ERRORS, UserError, out_of_memory
from core.migration import migrate
from data import pretrained

FORMAT = 1
PRETRAINED = 't5', 'gpt2'   # models with a from_pretrained, by their name in Hugging Face's config.json
MODEL_NEEDS = {'model': dict, 'keys': dict, 'config': dict, 'step': int}    # of a checkpoint
RUN_NEEDS = MODEL_NEEDS | {'info': dict, 'data': dict, 'best': dict, 'seconds': float, 'done': bool}


def load(path, device='cpu'):
    """Return the trained model of a run folder (its best.pt, else last.pt) or a .pt file, in eval mode."""
    return build_model(load_checkpoint(find_checkpoint(path)), device)


def find_checkpoint(path):
    """Return the file that `path` means: itself, a run folder's best.pt, else last.pt. hf:FOLDER stays so."""
    if str(path).startswith('hf:'):
        return path
    path = Path(path)
    candidates = [path / 'best.pt', path / 'last.pt'] if path.is_dir() else [path]
    for file in candidates:
        if file.exists():
            return file
    runs = sorted(str(file.parent) for file in Path('out').glob('*/last.pt'))
    trained = ', '.join(runs) or 'nothing yet: python train.py'
    raise UserError(f'there is no checkpoint {path}; trained here: {trained}')


def load_checkpoint(path, required=MODEL_NEEDS):
    """Return the checkpoint in a file, or of a pretrained model, hf:FOLDER. Its tensors are on the CPU.

    Raises UserError if it is damaged, lacks a key that is required, or holds more than plain data.
    """
    if str(path).startswith('hf:'):
        return load_pretrained(path)
    try:
        verify_zip(path)
        state = torch.load(path, map_location='cpu', weights_only=True)
        if state['format'] == FORMAT:
            for key, kind in required.items():
                if not isinstance(state[key], kind):
                    raise ValueError(f'{key}: expected {kind.__name__}, found {type(state[key]).__name__}')
            for key, place in ('model', state['keys']), ('tokenizer', state):
                if key not in place:
                    raise ValueError(f'{key} is missing')
            if not (state['step'] >= 0 and state.get('seconds', 0) < float('inf')):     # false for NaN
                raise ValueError('step is negative, or seconds are infinite or NaN')
            if not all(isinstance(weight, torch.Tensor) for weight in state['model'].values()):
                raise ValueError('model has more than tensors')
    except Exception as error:          # damage can show itself as any exception
        if getattr(error, 'errno', None) in FILE_ERRORS or out_of_memory(error):
            raise                       # the file may be whole
        reason = str(error).strip().split('\n')[0]
        raise UserError(f'{path} is not a whole checkpoint of nanozoo ({type(error).__name__}: {reason})')
    if state['format'] != FORMAT:
        raise UserError(f'{path} has format {state["format"]}, this code reads {FORMAT}')
    return migrate(state)


def load_pretrained(path):
    """Return a pretrained model in Hugging Face's format, hf:FOLDER, as a checkpoint of step 0."""
    folder = path.removeprefix('hf:')
    hf_config = pretrained.read_config(folder)
    name = hf_config.get('model_type')
    if name not in PRETRAINED:
        known = ' or '.join(PRETRAINED)
        raise UserError(f'{path}: expected model_type {known} in config.json, found {name!r}')
    try:
        model = import_module(f'models.{name}').Model.from_pretrained(folder)
    except ValueError as error:         # of its Config
        raise UserError(f'{path}: config.json: {error}')
    tokenizer = pretrained.read_tokenizer(folder)
    tasks = hf_config.get('task_specific_params')
    prefixes = []
    if isinstance(tasks, dict):
        prefixes = [task['prefix'] for task in tasks.values() if 'prefix' in task]
    return {'format': FORMAT, 'model': model.state_dict(), 'keys': {'model': name, 'init_from': path},
            'config': dataclasses.asdict(model.config), 'step': 0, 'seconds': 0.0, 'done': False, 'data': {},
            'info': {'prefixes': prefixes}, 'tokenizer': tokenizer and tokenizer.json()}


def verify_zip(path):
    """Raise ValueError unless a checkpoint, which is a zip archive, has the bytes that were written."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:      # torch compresses nothing: it may be huge
                    raise ValueError(f'{member.filename} is compressed')
                if member.external_attr & 0x10:     # a flipped bit made it a folder, which reads as empty
                    raise ValueError(f'{member.filename} is damaged')
            damaged = archive.testzip()                     # compares the checksum of every member
            if damaged:
                raise ValueError(f'{damaged} is damaged')
    except (zipfile.BadZipFile, EOFError) as error:         # the file was cut
        raise ValueError(str(error))


def save_checkpoint(path, state):
    """Write `state` to a file: all of it or nothing.

    Raises OSError, RuntimeError or ValueError; the file that was there is then intact.
    """
    path = Path(path)
    temporary = path.with_name(f'{path.name}.tmp')
    temporary.unlink(missing_ok=True)       # a symbolic link here would be written through
    try:
        with open(temporary, 'xb') as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        verify_zip(temporary)
        if path.name == 'last.pt' and path.exists():
            keep_previous(path)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):          # the file is whole; not every system can sync a folder
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def keep_previous(path):
    """Give the file that is about to be replaced a second name, so that `path` itself is never missing."""
    previous = path.with_name(f'{path.name}.previous')
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:                 # a file system without hard links: latest_checkpoint looks for both
        os.replace(path, previous)


def latest_checkpoint(out_dir):
    """Return the checkpoint to resume from and its path, or (None, '').

    If last.pt is damaged the one before it is taken, with a warning. Raises UserError if both are damaged, or
    if out_dir is a file.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f'out_dir {out_dir} is a file; give another --out_dir', code=4)
    damage = []
    for path in out_dir / 'last.pt', out_dir / 'last.pt.previous':
        if not path.exists():
            continue
        try:
            state = load_checkpoint(path, RUN_NEEDS)
        except UserError as error:
            damage.append(str(error))
            continue
        for line in damage:
            print(f'WARNING: {line}; going on from {path}, step {state["step"]}', file=sys.stderr)
        return state, path
    if damage:
        others = [file for file in out_dir.glob('*.pt') if file.name != 'last.pt']
        newest = sorted(others, key=os.path.getmtime)[-1:]
        advice = [f'to start with other weights: --init_from={file} --out_dir={out_dir}_2' for file in newest]
        raise UserError(*damage, *advice, 'to start again, this run moved aside: --init_from=scratch')
    return None, ''


def build_model(checkpoint, device='cpu'):
    """Return the checkpoint's model with its weights, on `device`, in eval mode.

    Raises UserError if the code and the checkpoint do not fit each other.
    """
    name = checkpoint['keys']['model']
    if name not in configurator.model_names():
        known = ', '.join(configurator.model_names())
        raise UserError(f'the checkpoint has the model {name!r}; there are {known}')
    module = import_module(f'models.{name}')
    try:
        config = module.Config(**checkpoint['config'])
    except (TypeError, ValueError) as error:
        raise UserError(f'the checkpoint does not fit the Config of models/{name}.py: {error}')
    model = module.Model(config)
    load_weights(model, evaluated_weights(checkpoint))
    return model.to(device).eval()


def evaluated_weights(checkpoint):
    """Return the weights that an evaluation is of, by name: the moving averages, where there are any."""
    ema = checkpoint.get('ema') or {}
    if isinstance(ema, list):           # of an earlier revision, without names
        ema = {}
    return checkpoint['model'] | ema


def model_config(model, fields, info={}, dataset=''):
    """Return the Config of models/<model>.py from the `fields` that were given and those in `info` of the
    data set.

    Raises UserError for values that are illegal, or that differ from those of the data set.
    """
    module = import_module(f'models.{model}')
    names = [field.name for field in dataclasses.fields(module.Config)]
    filled = {name: info[name] for name in names if name in info}
    problems = []
    for name, value in fields.items():
        if filled.get(name, value) != value:
            problems.append(f'{name} is {filled[name]!r} in the data set {dataset}, got {value!r}')
    if problems:
        raise UserError(*problems)
    try:
        return module.Config(**fields | filled)
    except (TypeError, ValueError) as error:
        raise UserError(*str(error).split('\n'))


def load_weights(model, weights, strict=True):
    """Load {name: tensor} into `model`; return a line for each tensor that does not fit.

    Raises UserError with these lines if `strict`, or if no tensor fits.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    mismatches = []
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            mismatches.append(f'{name}: the model has {expected.get(name, "none")}, '
                              f'the checkpoint {found.get(name, "none")}')
    fitting = {name: tensor for name, tensor in weights.items() if expected.get(name) == found[name]}
    if mismatches and (strict or not fitting):
        more = ['...'] if len(mismatches) > 10 else []
        raise UserError(f'{len(mismatches)} tensors do not fit:', *mismatches[:10], *more)
    model.load_state_dict(fitting, strict=False)
    return mismatches
