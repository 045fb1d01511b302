"""Write a trained model as a Hugging Face folder: config.json, model.safetensors and tokenizer.json.

    python data/pretrained.py out/t5_multi30k FOLDER

With transformers, AutoModelForSeq2SeqLM.from_pretrained('FOLDER') then reads a T5 and AutoModelForCausalLM a
GPT-2. A model can be exported if data/pretrained_MODEL.py knows its names there.
"""
import os
import sys
from importlib import import_module

from configurator import ROOT
from core import errors
from core.checkpoint import build_model, find_checkpoint, load_checkpoint
from core.errors import UserError
from data import tokenizers


def export(path, folder):
    """Write the model of a run folder or .pt file, and its tokenizer if transformers knows the kind."""
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise UserError(f'{folder} exists: give a folder that is new or empty')
    file = find_checkpoint(path)
    checkpoint = load_checkpoint(file)
    name = checkpoint['keys']['model']
    if not (ROOT / 'data' / f'pretrained_{name}.py').exists():
        raise UserError(f'{file}: expected a model with a file data/pretrained_MODEL.py, found {name}')
    net = build_model(checkpoint)
    tokenizer = tokenizers.load(checkpoint['tokenizer'])
    if not hasattr(tokenizer, 'tokenizer_json'):
        kind = checkpoint['tokenizer']['kind'] if tokenizer else 'none'
        print(f'no tokenizer.json is written: the tokenizer of the run is {kind}, expected unigram or gpt2')
        tokenizer = None
    import_module(f'data.pretrained_{name}').write(folder, net, tokenizer)
    print(f'{file} is now in {folder}')


if __name__ == '__main__':
    errors.set_up()
    if len(sys.argv) != 3:
        raise UserError('expected a run and the folder to write: python data/pretrained.py RUN FOLDER')
    export(*sys.argv[1:])
