"""core/export.py: a run becomes a Hugging Face folder that gives the same logits here and in transformers."""
import dataclasses, json

import pytest
import torch

from core import checkpoint
from data import pretrained, unigram
from models import gpt, t5
from test_unigram import spec

SMALL = {'vocab_size': 40, 'n_layer': 2, 'n_layer_decoder': 1, 'n_head': 2, 'n_embd': 12, 'd_kv': 5,
         'd_ff': 20}
PIECES = {'▁': -3.0, '▁the': -2.0, '▁cat': -4.0, 's': -5.0}
BYTES = {'kind': 'bytes'}
UNIGRAM = unigram.Unigram(spec(PIECES)).json()
IDS = torch.tensor([[4, 5, 6, 1], [4, 1, 0, 0]])


def save_run(folder, model, tokenizer, name='t5'):
    """Save a checkpoint with what exporting needs of it."""
    folder.mkdir()
    keys = {'model': name, 'warmup_iters': 0, 'warmup_fraction': 0.0}
    checkpoint.save_checkpoint(folder / 'best.pt', {
        'format': checkpoint.FORMAT, 'model': model.state_dict(), 'config': dataclasses.asdict(model.config),
        'keys': keys, 'step': 1, 'tokenizer': tokenizer})


@pytest.fixture(params=['1.0', '1.1'])
def model(request):
    torch.manual_seed(0)
    version = {'gated': True, 'tie': False, 'scale_head': False} if request.param == '1.1' else {}
    return t5.Model(t5.Config(**SMALL, **version)).eval()


def test_a_folder_gives_the_model_and_the_tokenizer_back(launch, tmp_path, model):
    save_run(tmp_path / 'run', model, UNIGRAM)
    code, text = launch('data/pretrained.py', f'{tmp_path}/run', f'{tmp_path}/hf')
    assert code == 0, text
    names = sorted(path.name for path in (tmp_path / 'hf').iterdir())
    assert names == ['config.json', 'model.safetensors', 'tokenizer.json']
    back = t5.Model.from_pretrained(tmp_path / 'hf')
    assert torch.equal(back.logits(IDS, IDS), model.logits(IDS, IDS))
    assert pretrained.read_tokenizer(tmp_path / 'hf').json() == UNIGRAM


def test_transformers_reads_the_folder_and_gives_the_same_logits_and_ids(launch, tmp_path, model):
    transformers = pytest.importorskip('transformers')
    save_run(tmp_path / 'run', model, UNIGRAM)
    launch('data/pretrained.py', f'{tmp_path}/run', f'{tmp_path}/hf')
    T5 = transformers.T5ForConditionalGeneration
    other, info = T5.from_pretrained(tmp_path / 'hf', output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys'] and not info['mismatched_keys']
    with torch.no_grad():
        expected = other.eval()(input_ids=IDS, attention_mask=(IDS != 0).long(), decoder_input_ids=IDS).logits
    real = IDS != 0
    assert torch.allclose(model.logits(IDS, IDS)[real], expected[real], atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'hf')
    assert tokenizer('the cats').input_ids == unigram.Unigram(spec(PIECES)).encode('the cats') + [1]


def test_a_run_with_another_tokenizer_is_written_without_one(launch, tmp_path):
    for name, tokenizer, kind in ('one', BYTES, 'bytes'), ('two', None, 'none'):
        save_run(tmp_path / name, t5.Model(t5.Config(**SMALL)), tokenizer)
        code, text = launch('data/pretrained.py', f'{tmp_path / name}', f'{tmp_path}/hf_{name}')
        assert code == 0 and f'no tokenizer.json is written: the tokenizer of the run is {kind}' in text
        names = sorted(path.name for path in (tmp_path / f'hf_{name}').iterdir())
        assert names == ['config.json', 'model.safetensors']
    assert json.loads((tmp_path / 'hf_one/config.json').read_text())['model_type'] == 't5'


def test_what_cannot_be_exported_is_an_error(launch, tmp_path):
    save_run(tmp_path / 'run', gpt.Model(gpt.Config(n_layer=1, n_head=1, n_embd=8)), BYTES, name='gpt')
    run = f'{tmp_path}/run'
    for arguments, expected, exit_code in [([run], 'expected a run and the folder to write', 2),
                                           ([run, f'{tmp_path}/hf'], 'found gpt', 2),
                                           (['nowhere', 'x'], 'no checkpoint nowhere', 2)]:
        code, text = launch('data/pretrained.py', *arguments, cwd=tmp_path)
        assert code == exit_code and expected in text and 'Traceback' not in text, text
    assert not (tmp_path / 'hf').exists()


def test_a_folder_that_cannot_be_written_is_an_error(launch, tmp_path):
    save_run(tmp_path / 'run', t5.Model(t5.Config(**SMALL)), None)
    (tmp_path / 'file').write_bytes(b'')
    code, text = launch('data/pretrained.py', f'{tmp_path}/run', f'{tmp_path}/file')
    assert code == 2 and 'give a folder that is new or empty' in text and 'Traceback' not in text
