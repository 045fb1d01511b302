"""models/gpt2.py and data/pretrained_gpt2.py against the package transformers: a stored fixture, and live
where it is installed. make_gpt2_fixture.py says how the fixture was made."""
import json

import numpy as np
import pytest
import torch
from torch import nn

import data
from conftest import ROOT
from core import search
from core.checkpoint import load_checkpoint
from core.errors import UserError
from data import gpt2_bpe, pretrained, pretrained_gpt2, tensor_file
from models.gpt2 import Config, Model

SMALL = dict(size='custom', vocab_size=13, block_size=16, n_layer=2, n_head=2, n_embd=16)
SIZES = {'124M': 124_439_808, '350M': 354_823_168, '774M': 774_030_080, '1.5B': 1_557_611_200}
MERGES = ['Ġ t', 'h e', 'Ġt he', 'a t']


def make(std=0.3, **fields):
    """Return a model in eval mode with large random weights: at initialisation zeros hide much."""
    torch.manual_seed(0)
    model = Model(Config(**SMALL | fields)).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=std)
    return model


@pytest.fixture(scope='module')
def fixture():
    """The arrays of the fixture: {name: array}."""
    return dict(np.load(ROOT / 'tests' / 'fixtures' / 'gpt2.npz'))


@pytest.fixture
def folder(fixture, tmp_path):
    """The fixture as a folder of transformers."""
    return write_folder(fixture, tmp_path / 'hf')


def write_folder(fixture, path, rename=lambda name: name, **changes):
    config = json.loads(str(fixture['config'])) | changes
    weights = {}
    for name, array in fixture.items():
        if name.startswith('weights/'):
            weights[rename(name.removeprefix('weights/'))] = torch.tensor(array)
    weights.pop(None, None)
    pretrained.write(path, config, weights)
    return path


# --- the same numbers

@torch.no_grad()
def test_logits_equal_those_of_transformers(fixture, folder):
    model = Model.from_pretrained(folder)
    logits = model.logits(torch.tensor(fixture['tokens']))
    expected = torch.tensor(fixture['logits'])
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize('generate', [search.generate, search.generate_cached])
def test_it_continues_a_text_as_transformers_does(fixture, folder, generate):
    model = Model.from_pretrained(folder)
    new = torch.stack(list(generate(model, torch.tensor(fixture['tokens']), 12, search.greedy)), 1)
    assert torch.equal(new, torch.tensor(fixture['continued'])[:, 20:])


@pytest.mark.parametrize('size, n', SIZES.items())
def test_the_sizes_have_the_published_numbers_of_parameters(size, n):
    with torch.device('meta'):
        model = Model(Config(size=size))
    assert sum(p.numel() for p in model.parameters()) == n


def test_transformers_and_the_model_agree_in_both_directions(tmp_path):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=60, n_positions=24, n_embd=20, n_layer=3, n_head=4)
    reference = transformers.GPT2LMHeadModel(config).eval()
    for p in reference.parameters():
        nn.init.normal_(p, std=0.3)
    reference.save_pretrained(tmp_path / 'theirs')
    model = Model.from_pretrained(tmp_path / 'theirs')
    tokens = torch.randint(0, 60, (2, 24))
    with torch.no_grad():
        expected = reference(tokens).logits
        assert (model.logits(tokens) - expected).abs().max() < 1e-5 * expected.abs().max()
        pretrained_gpt2.write(tmp_path / 'ours', model)
        GPT2 = transformers.GPT2LMHeadModel
        again, info = GPT2.from_pretrained(tmp_path / 'ours', output_loading_info=True)
        assert not info['missing_keys'] and not info['unexpected_keys'] and not info['mismatched_keys']
        assert torch.equal(again.eval()(tokens).logits, expected)


# --- the architecture

@torch.no_grad()
def test_logits_do_not_depend_on_how_many_tokens_are_read_at_a_time():
    model = make()
    tokens = torch.randint(0, 13, (2, 16))
    kv_cache = model.empty_kv_cache(2)
    pieces = []
    for i, j in [(0, 5), (5, 6), (6, 13), (13, 16)]:
        pieces.append(model.logits(tokens[:, i:j], kv_cache[..., :j, :]))
    assert (torch.cat(pieces, 1) - model.logits(tokens)).abs().max() < 1e-5


@pytest.mark.parametrize('block_size', [1, 7, 16])
def test_generating_with_and_without_the_cache_yields_the_same_tokens(block_size):
    model = make(block_size=block_size)
    prompts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    plain = list(search.generate(model, prompts, 40, search.greedy))
    cached = list(search.generate_cached(model, prompts, 40, search.greedy))
    assert torch.equal(torch.stack(plain), torch.stack(cached))


@torch.no_grad()
def test_no_position_sees_the_future():
    model = make()
    tokens = torch.randint(0, 13, (2, 16))
    before = model.logits(tokens)
    for t in range(1, 16):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 13
        assert torch.equal(model.logits(changed)[:, :t], before[:, :t])
        assert not torch.equal(model.logits(changed)[:, t:], before[:, t:])


def test_weights_begin_as_published():
    torch.manual_seed(0)
    model = Model(Config(size='custom', vocab_size=256, n_embd=128, n_head=2, n_layer=8))
    for name, weight in model.named_parameters():
        if name.endswith('bias'):
            assert not weight.any(), name
        elif 'norm' in name:
            assert (weight == 1).all(), name
        else:
            expected = 0.02 / 4 if name.endswith('proj.weight') else 0.02       # sqrt(2 n_layer) is 4
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name
    assert model.head.weight is model.embed.weight


@pytest.mark.parametrize('fields, named', [
    (dict(size='2B'), 'size'), (dict(n_head=3), 'n_head'), (dict(n_layer=-1), 'n_layer'),
    (dict(dropout=1.0), 'dropout'), (dict(n_embd=0), 'n_embd')])
def test_an_impossible_field_is_an_error_that_names_it(fields, named):
    with pytest.raises(ValueError, match=named):
        Config(**SMALL | fields)


def test_a_size_gives_what_is_not_given():
    config = Config(size='350M', n_layer=3)
    assert (config.n_layer, config.n_head, config.n_embd) == (3, 16, 1024)


# --- folders

def test_names_of_the_hub_and_its_buffers_are_read_as_well(fixture, folder, tmp_path):
    other = write_folder(fixture, tmp_path / 'hub', lambda name: name.removeprefix('transformer.'))
    weights = pretrained.read_weights(other)
    weights['h.0.attn.bias'] = torch.ones(1, 1, 32, 32)         # the causal mask, not a bias
    weights['h.0.attn.masked_bias'] = torch.tensor(-1e4)
    copies = {name: tensor.clone() for name, tensor in weights.items()}
    tensor_file.write(other / 'model.safetensors', copies)
    expected = Model.from_pretrained(folder).state_dict()
    found = Model.from_pretrained(other).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_folder_comes_back_to_the_bit(folder, tmp_path):
    model = Model.from_pretrained(folder)
    pretrained_gpt2.write(tmp_path / 'copy', model)
    again = Model.from_pretrained(tmp_path / 'copy')
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    before, after = pretrained.read_weights(folder), pretrained.read_weights(tmp_path / 'copy')
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_pickle_of_plain_tensors_is_read_and_one_of_code_is_not(folder, tmp_path):
    expected = Model.from_pretrained(folder).state_dict()
    weights = {name: tensor.clone() for name, tensor in pretrained.read_weights(folder).items()}
    (folder / 'model.safetensors').unlink()
    torch.save(weights, folder / 'pytorch_model.bin')
    found = Model.from_pretrained(folder).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for content in {'a': torch.nn.Linear(1, 1)}, ['a'], {'a': 1}:
        torch.save(content, folder / 'pytorch_model.bin')
        with pytest.raises(UserError, match='pytorch_model.bin: expected'):
            Model.from_pretrained(folder)
    (folder / 'pytorch_model.bin').write_bytes(b'abc')
    with pytest.raises(UserError, match='pytorch_model.bin: expected tensors'):
        Model.from_pretrained(folder)


@pytest.mark.parametrize('rename, changes, expected', [
    (lambda name: None if 'wpe' in name else name, {}, 'wpe.weight: expected .*, found no such'),
    (lambda name: name, {'n_embd': 12}, 'wte.weight: expected'),
    (lambda name: name, {'n_layer': 0}, 'n_layer of config.json: expected int'),
    (lambda name: name, {'n_head': 5}, 'n_embd 24 must be divisible'),
    (lambda name: name, {'model_type': 'bert'}, "found 'bert'"),
    (lambda name: name, {'activation_function': 'relu'}, "activation_function .*: expected 'gelu_new'"),
    (lambda name: name, {'n_inner': 7}, 'n_inner of config.json: expected 96, found 7')])
def test_what_is_wrong_with_a_folder_is_an_error_that_names_it(launch, fixture, tmp_path, rename, changes,
                                                               expected):
    write_folder(fixture, tmp_path / 'hf', rename, **changes)
    with pytest.raises((UserError, ValueError), match=expected):
        Model.from_pretrained(tmp_path / 'hf')
    code, text = launch('sample.py', f'--init_from=hf:{tmp_path}/hf', '--start=a')
    assert code == 2 and 'Traceback' not in text, text


# --- tokenizers

def make_tokenizer():
    return gpt2_bpe.load('\n'.join(['#version: 0.2', *MERGES]) + '\n')


def test_a_tokenizer_is_read_from_each_of_its_forms(tmp_path):
    tokenizer = make_tokenizer()
    vocabulary = json.dumps(tokenizer.vocabulary())
    text = 'that is the hat é\n'
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocabulary()['Ġthe'] == 258 and tokenizer.vocabulary()['<|endoftext|>'] == 260
    for merges, ids in pretrained.GPT2_FILES:
        path = tmp_path / merges
        path.mkdir()
        (path / merges).write_text(tokenizer.vocab_bpe, encoding='utf-8')
        (path / ids).write_text(vocabulary, encoding='utf-8')
        assert pretrained.read_tokenizer(path).encode(text) == tokenizer.encode(text)
    (tmp_path / 'tokenizer.json').write_text(tokenizer.tokenizer_json(), encoding='utf-8')
    assert pretrained.read_tokenizer(tmp_path).json() == tokenizer.json()


def test_files_that_do_not_match_are_an_error(tmp_path):
    tokenizer = make_tokenizer()
    vocabulary = tokenizer.vocabulary()
    (tmp_path / 'merges.txt').write_text(tokenizer.vocab_bpe, encoding='utf-8')
    for change in {'Ġthe': 257}, {'new': 300}:
        (tmp_path / 'vocab.json').write_text(json.dumps(vocabulary | change), encoding='utf-8')
        with pytest.raises(UserError, match='merges.txt: the merges and the ids do not match'):
            pretrained.read_tokenizer(tmp_path)
    (tmp_path / 'vocab.json').unlink()
    with pytest.raises(UserError, match='vocab.json'):
        pretrained.read_tokenizer(tmp_path)


def test_a_tokenizer_that_adds_a_space_or_has_no_words_is_an_error(tmp_path):
    for change in {'add_prefix_space': True}, {'use_regex': False}:
        spec = json.loads(make_tokenizer().tokenizer_json())
        spec['pre_tokenizer'] |= change
        (tmp_path / 'tokenizer.json').write_text(json.dumps(spec), encoding='utf-8')
        with pytest.raises(UserError, match='expected a ByteLevel'):
            pretrained.read_tokenizer(tmp_path)


def test_a_tokenizer_json_of_2019_is_read_too(tmp_path):
    spec = json.loads(make_tokenizer().tokenizer_json())
    del spec['model']['type'], spec['pre_tokenizer']['use_regex']
    spec['model']['merges'] = MERGES
    (tmp_path / 'tokenizer.json').write_text(json.dumps(spec), encoding='utf-8')
    assert pretrained.read_tokenizer(tmp_path).json() == make_tokenizer().json()


def test_the_end_of_a_text_is_visible_and_an_id_without_a_token_is_not():
    tokenizer = make_tokenizer()
    assert tokenizer.decode([*tokenizer.encode('a hat'), 260, 261]) == 'a hat<|endoftext|>'


def test_the_library_gives_the_ids_of_a_written_tokenizer(tmp_path):
    transformers = pytest.importorskip('transformers')
    tokenizer = make_tokenizer()
    pretrained.write(tmp_path, {'model_type': 'gpt2'}, {'w': torch.ones(1)}, tokenizer)
    library = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / 'tokenizer.json'))
    for text in 'that is the hat', ' the  the\n\tthe', 'é ☕ 12 they\'ll', '':
        assert library(text).input_ids == tokenizer.encode(text), text


# --- a run

def test_sample_continues_with_the_model_and_the_tokenizer_of_a_folder(launch, tmp_path):
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = Model(Config(**SMALL | dict(vocab_size=tokenizer.vocab_size))).eval()
    pretrained_gpt2.write(tmp_path / 'hf', model, tokenizer)
    code, text = launch('sample.py', f'--init_from=hf:{tmp_path}/hf', '--start=that', '--temperature=0',
                        '--max_new_tokens=20', '--device=cpu')
    ids = tokenizer.encode('that')
    new = list(search.generate(model, torch.tensor([ids]), 20, search.greedy))
    expected = tokenizer.decode(ids + [token.item() for token in new])
    assert code == 0 and expected in text, text


def test_fine_tuning_begins_with_the_weights_of_a_folder_and_resumes_exactly(launch, tmp_path):
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = Model(Config(**SMALL | dict(vocab_size=tokenizer.vocab_size)))
    pretrained_gpt2.write(tmp_path / 'hf', model, tokenizer)
    tokens = np.array(tokenizer.encode('that is the hat\n' * 50))
    splits = {'train': {'tokens': tokens}, 'val': {'tokens': tokens[:100]}}
    data.save(str(tmp_path / 'text'), splits, {'tokens': 'stream'}, {'vocab_size': tokenizer.vocab_size},
              tokenizer.json())
    argv = ['train.py', '--model=gpt2', f'--init_from=hf:{tmp_path}/hf', f'--dataset={tmp_path}/text',
            '--schedule=constant', '--batch_size=4', '--dtype=float32', '--device=cpu', '--log_interval=1']
    for name, steps in ('straight', 8), ('resumed', 4):
        code, text = launch(*argv, f'--max_iters={steps}', f'--out_dir={tmp_path}/{name}')
        assert code == 0 and 'not taken' not in text, text
    code, text = launch('train.py', '--init_from=resume', '--max_iters=8', f'--out_dir={tmp_path}/resumed')
    assert code == 0, text
    straight = load_checkpoint(tmp_path / 'straight' / 'last.pt')
    resumed = load_checkpoint(tmp_path / 'resumed' / 'last.pt')
    assert straight['config']['block_size'] == 16 and straight['config']['n_embd'] == 16
    for name, tensor in straight['model'].items():
        assert torch.equal(resumed['model'][name], tensor), name
