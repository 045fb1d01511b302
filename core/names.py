"""Names as users type them: the nearest legal one, nanoGPT's, ~ for the home folder, the folder of a run."""
import difflib
import glob
import os
import re
from pathlib import Path

# Options that may be paths, and ~ at the beginning of a path or of one of the two in `pairs`.
PATHS = 'dataset init_from input out out_dir pairs record start tokenizer'.split()
HOME = re.compile(r'(^|^FILE:|^hf:|,)~(?=/|$)')

# What is an option of nanoGPT, but not here: what takes its place.
NANOGPT = {
    'gradient_accumulation_steps': 'batch_size is of a whole step, micro_batch_size of a forward pass',
    'lr_decay_iters': 'the schedule ends at max_iters',
    'decay_lr': 'without decay it is schedule=constant',
    'eval_iters': 'an evaluation reads the whole split, every eval_interval steps',
    'bias': 'the linear layers of model=gpt have no bias, those of model=gpt2 have one',
    'always_save_checkpoint': 'every evaluation saves last.pt, and best.pt if it is the best so far',
    'backend': 'it follows from the device',
    'wandb_log': 'log.jsonl is the record, and plot.py draws it',
}


def nearest(word, words):
    """Return '; did you mean ...?' if one of `words` is similar, else ''."""
    similar = difflib.get_close_matches(str(word), [str(other) for other in words], 1)
    return f'; did you mean {similar[0]}?' if similar else ''


def unknown_option(name, options):
    """Return the message for the name of an option that is not one of `options`."""
    advice = f' here: {NANOGPT[name]}' if name in NANOGPT else nearest(name, options)
    return f'{name} is not an option{advice}'


def expand_home(name, value):
    """Return the value of the option `name` with the home folder in place of ~, if it is a path.

    A shell replaces ~ at the beginning of a word only, so not in --out_dir=~/runs. A `start` may be a text
    as well: it is a path if it begins with FILE:, or if there are files of this name or pattern.
    """
    if name not in PATHS:
        return value
    home = os.path.expanduser('~')
    expanded = HOME.sub(lambda match: match[1] + home, value)
    if name == 'start' and not value.startswith('FILE:'):
        is_path = value.startswith('~/') and glob.glob(expanded)
        return expanded if is_path else value
    return expanded


def run_name(configs, options, given):
    """Return the name of a run's folder in out/: its config's, else that of the data set and model given.

    configs: the config files. options: {name: value}. given: the names of those that were given.
    """
    if configs:
        return Path(configs[0]).stem.removeprefix('train_')
    parts = []
    if 'dataset' in given:
        parts.append(Path(options['dataset']).resolve().name)
    if 'model' in given:
        parts.append(options['model'])
    return '_'.join(parts) or 'stdlib'
