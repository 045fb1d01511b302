"""Write a trained model as a Hugging Face folder: config.json, model.safetensors and tokenizer.json.

    python export.py --out_dir=out/t5_multi30k --folder=t5_multi30k

Then, with transformers: T5ForConditionalGeneration.from_pretrained('t5_multi30k'). A model can be exported if
data/pretrained_MODEL.py knows its names there.
"""
import sys
from importlib import import_module

import configurator
from configurator import ROOT
from core.checkpoint import build_model, find_checkpoint, load_checkpoint
from core.errors import UserError
from data import tokenizers
from data.unigram import Unigram

# --- options
out_dir = 'out/t5'      # a run folder (its best.pt, else last.pt) or a .pt file
folder = ''             # the folder to write; files of these names in it are replaced

if __name__ == '__main__':
    options = configurator.read(__file__, sys.argv[1:]).options
    if not options['folder']:
        raise UserError('expected --folder=NAME, the folder to write')
    file = find_checkpoint(options['out_dir'])
    checkpoint = load_checkpoint(file)
    net = build_model(checkpoint)
    name = checkpoint['keys']['model']
    if not (ROOT / 'data' / f'pretrained_{name}.py').exists():
        raise UserError(f'{file}: expected a model with a file data/pretrained_MODEL.py, found {name}')
    module = import_module(f'data.pretrained_{name}')
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    if not isinstance(tokenizer, Unigram):
        kind = checkpoint['tokenizer']['kind'] if tokenizer else 'none'
        print(f'no tokenizer.json is written: the tokenizer of the run is {kind}, expected unigram')
        tokenizer = None
    module.write(options['folder'], net, tokenizer)
    print(f'{file} is now in {options["folder"]}')
