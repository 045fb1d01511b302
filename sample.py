"""Show what a trained model produces: text, translations, classes of texts or images, masks, images.

    python sample.py --out_dir=out/shakespeare --start='ROMEO:' --num_samples=3
    python sample.py --out_dir=out/multi30k --start='A dog runs.'
    python sample.py --out_dir=out/multi30k --split=test --beam=4 --bleu
    python sample.py --out_dir=out/imdb --start='A dull film.'       # positive or negative, and how surely
    python sample.py --out_dir=out/cifar10_cnn                      # 25 test images, each with its class
    python sample.py --out_dir=out/pets_mp_tr_bce --start=photo.jpg # where the pet is
    python sample.py --out_dir=out/cvae_mnist --grid=wrong_label    # a 7 as a 3 in the same style

Each kind has options of its own. They stand at the top of its file: samples/text.py, samples/translation.py,
samples/labels.py, samples/classes.py, samples/masks.py, samples/images.py. To list them with those below:

    python sample.py --out_dir=out/shakespeare --help

All it needs is the run folder or checkpoint: no network, and the data set only where its rows are shown.
"""
import sys
from importlib import import_module
from pathlib import Path

import configurator
from core import machine
from core.checkpoint import build_model, find_checkpoint, load_checkpoint
from core.errors import UserError
from samples import KINDS, out_of_range

# --- options of every kind
out_dir = 'out/stdlib'  # a run folder (its best.pt, else last.pt) or a .pt file
init_from = ''          # in place of out_dir hf:FOLDER, a pretrained model in Hugging Face's format
seed = 1337             # of what is random: the tokens drawn, the rows chosen, the latents of images
device = 'auto'         # auto, cpu, cuda, mps

LIMITS = {'seed': 2**63 - 1}

if __name__ == '__main__':
    argv = sys.argv[1:]
    # out_dir decides on the model, and the model on the other options: so read out_dir first.
    names = '--out_dir', '--init_from'
    first = [argument for argument in argv if argument.startswith(names) or argument[:1] != '-']
    if not first and ('--help' in argv or '-h' in argv):
        first = ['--help']                      # prints the options above, and exits
    options = configurator.read(__file__, first).options
    path = options['init_from'] or options['out_dir']
    file = find_checkpoint(path)
    checkpoint = load_checkpoint(file)
    net = build_model(checkpoint)
    makes = getattr(net, 'makes', 'nothing')
    if makes not in KINDS:
        raise UserError(f'{path} makes {makes}: expected Model.makes to be one of {", ".join(KINDS)}')

    kind = import_module(f'samples.{makes}')
    settings = configurator.read(__file__, argv, also=[kind.__file__])
    for name in configurator.parse_options(kind.__file__):
        setattr(kind, name, settings.options[name])         # its variables take the values that were given
    problems = out_of_range(settings.options, LIMITS | kind.LIMITS)
    problems += kind.problems(settings.given)
    if problems:
        raise UserError(*problems)

    device, *_ = machine.resolve(settings.options['device'])
    machine.tune_malloc()
    kind.show(net.to(device), checkpoint, Path(file).parent, settings.options['seed'])
