"""hf:FOLDER, a pretrained T5 in Hugging Face's format, for train.py and sample.py."""
import json

import pytest
import torch

from core import checkpoint
from core.checkpoint import load_checkpoint
from data import pairs, pretrained, pretrained_t5, tensor_file, unigram
from models import t5
from test_unigram import spec

SMALL = {'vocab_size': 40, 'n_layer': 2, 'n_layer_decoder': 1, 'n_head': 2, 'n_embd': 12, 'd_kv': 5,
         'd_ff': 20}
PIECES = {'▁': -3.0, '▁the': -2.0, '▁cat': -4.0, 's': -5.0}
TOKENIZER = unigram.Unigram(spec(PIECES))


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = t5.Model(t5.Config(**SMALL)).eval()
    pretrained_t5.write(tmp_path / 'hf', model, TOKENIZER)
    return tmp_path / 'hf'


@pytest.fixture
def dataset(tmp_path):
    lines = [('the cats', 'cats'), ('cat', 'the cat'), ('the', 'the')] * 4
    path = tmp_path / 'pairs'
    pairs.save(str(path), {'train': lines, 'val': lines[:3]}, TOKENIZER, ['a', 'b'], {'vocab_size': 40})
    return path


def change_config(folder, **fields):
    """Write the config.json of a folder again, with other values for some fields."""
    file = folder / 'config.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def rename_weights(folder, names):
    """Write the weights of a folder again, under other names for some; None: without them."""
    weights = pretrained.read_weights(folder)
    renamed = {names.get(name, name): tensor.clone() for name, tensor in weights.items()}
    renamed.pop(None, None)
    tensor_file.write(folder / 'model.safetensors', renamed)


def test_load_gives_the_model_of_the_folder(folder):
    model = checkpoint.load(f'hf:{folder}')
    ids = torch.tensor([[4, 5, 1]])
    assert not model.training
    assert torch.equal(model.logits(ids, ids), t5.Model.from_pretrained(folder).logits(ids, ids))


def test_sample_translates_with_the_model_and_the_tokenizer_of_the_folder(launch, folder):
    code, text = launch('sample.py', f'--init_from=hf:{folder}', '--start=the cats', '--beam=1')
    assert code == 0 and 'Traceback' not in text and 'prefix' not in text, text


def test_a_line_without_a_prefix_of_the_training_is_warned_about(launch, folder):
    change_config(folder, task_specific_params={'translation': {'prefix': 'the cats: '},
                                                'other': {'max_length': 3}})
    for start, warned in ('the cats: the', False), ('cat the', True):
        code, text = launch('sample.py', f'--init_from=hf:{folder}', f'--start={start}', '--beam=1')
        assert code == 0 and ("'cat the' begins with none of the task prefixes" in text) == warned, text


def test_training_begins_with_weights_and_architecture_of_the_folder(launch, folder, dataset, tmp_path):
    code, text = launch('train.py', '--model=t5', f'--init_from=hf:{folder}', f'--dataset={dataset}',
                        '--max_iters=1', '--batch_size=4', '--learning_rate=1e-12', '--weight_decay=0',
                        '--device=cpu', '--dtype=float32', f'--out_dir={tmp_path}/run')
    assert code == 0 and 'not taken' not in text, text
    expected = t5.Model.from_pretrained(folder).state_dict()
    found = load_checkpoint(tmp_path / 'run/last.pt')
    assert found['config']['n_layer_decoder'] == 1
    for name, tensor in found['model'].items():
        assert torch.allclose(tensor, expected[name], atol=1e-9), name


def test_eval_only_reads_a_pretrained_model_and_writes_nothing(launch, folder, dataset, tmp_path):
    code, text = launch('train.py', '--model=t5', '--eval_only', f'--init_from=hf:{folder}',
                        f'--dataset={dataset}', '--batch_size=3', '--device=cpu', '--dtype=float32',
                        f'--out_dir={tmp_path}/run')
    assert code == 0 and 'val at step 0: loss' in text, text
    assert not (tmp_path / 'run').exists()


def test_eval_only_of_another_architecture_is_an_error(launch, folder, dataset, tmp_path):
    code, text = launch('train.py', '--model=t5', '--eval_only', f'--init_from=hf:{folder}', '--n_layer=3',
                        f'--dataset={dataset}', '--batch_size=3', '--device=cpu', f'--out_dir={tmp_path}/run')
    assert code == 2 and 'tensors do not fit' in text and 'Traceback' not in text, text


def test_another_model_is_an_error_that_names_the_right_one(launch, folder, toy, tmp_path):
    code, text = launch('train.py', f'--init_from=hf:{folder}', f'--dataset={toy}',
                        f'--out_dir={tmp_path}/run')
    assert code == 2 and 'is a t5: give --model=t5' in text and 'Traceback' not in text, text


@pytest.mark.parametrize('damage, expected', [
    (lambda folder: (folder / 'config.json').unlink(), 'config.json'),
    (lambda folder: (folder / 'model.safetensors').unlink(), 'expected model.safetensors'),
    (lambda folder: rename_weights(folder, {'decoder.final_layer_norm.weight': None}),
     'decoder.final_layer_norm.weight: expected'),
    (lambda folder: (folder / 'config.json').write_text('{"model_type": "bert"}'), "found 'bert'"),
    (lambda folder: change_config(folder, relative_attention_num_buckets=30), 'n_bucket must be a multiple'),
    (lambda folder: change_config(folder, d_model=12.5), 'd_model of config.json: expected int'),
    (lambda folder: change_config(folder, dropout_rate='a'), 'dropout_rate of config.json: expected float')])
def test_what_is_wrong_with_a_folder_is_an_error_that_names_it(launch, folder, damage, expected):
    damage(folder)
    code, text = launch('sample.py', f'--init_from=hf:{folder}', '--start=the')
    assert code == 2 and expected in text and 'Traceback' not in text, text


def test_a_folder_without_a_tokenizer_loads_but_cannot_read_text(launch, folder):
    (folder / 'tokenizer.json').unlink()
    assert checkpoint.load(f'hf:{folder}').config.n_embd == 12
    code, text = launch('sample.py', f'--init_from=hf:{folder}', '--start=the')
    assert code == 2 and 'no tokenizer' in text and 'Traceback' not in text, text


def test_a_prompt_that_is_too_long_is_cut_with_a_message(launch, folder):
    code, text = launch('sample.py', f'--init_from=hf:{folder}', '--start=' + 'the ' * 600, '--beam=1')
    assert code == 0 and 'line 1 has 601 tokens, it is cut to 256' in text, text
