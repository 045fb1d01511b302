"""data/wikitext2/prepare.py: words as published figures count, other tokenizers of the same text."""
import io
import math
import zipfile

import numpy as np
import pytest

import data
from data import tokenizers
from mirror import prepare, prepare_real, real

TRAIN = ' \n = The cat = \n \n The <unk> sat on the mat . \n The cat sat . \n'
VAL = ' \n The dog <unk> . \n'
TEST = ' the cat é \n'


def archive(train=TRAIN):
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as packed:
        for name, text in ('train', train), ('valid', VAL), ('test', TEST):
            packed.writestr(f'wikitext-2/wiki.{name}.tokens', text.encode('utf-8'))
    return {'wikitext2/wikitext-2-v1.zip': content.getvalue()}


def read(path):
    """{split: ids}, the tokenizer and meta.json of a data set."""
    meta = data.check(str(path), hashes=True)
    ids = {split: np.fromfile(path / f'{split}.tokens.bin', '<u2').tolist() for split in meta['splits']}
    return ids, tokenizers.load(meta['tokenizer']), meta


def test_words_are_counted_as_published_and_the_most_frequent_come_first(prepare, tmp_path):
    text = prepare('wikitext2', archive())
    ids, tokenizer, meta = read(tmp_path / 'out')
    assert tokenizer.words[:2] == ['<eos>', 'The']
    assert sorted(tokenizer.words) == sorted({*TRAIN.split(), '<eos>'})
    assert meta['info'] == {'vocab_size': 10, 'words': {'train': 20, 'val': 6, 'test': 4}}
    assert {split: len(found) for split, found in ids.items()} == meta['info']['words']
    assert tokenizer.decode(ids['train']) == TRAIN
    assert tokenizer.decode(ids['val']) == VAL.replace('dog', '<unk>')
    assert 'train: 20 words, 20 tokens, 1.0000 per word' in text


def test_a_text_without_unk_gets_one_for_the_words_of_others(prepare, tmp_path):
    prepare('wikitext2', archive(' the cat \n'))
    ids, tokenizer, _ = read(tmp_path / 'out')
    assert sorted(tokenizer.words) == ['<eos>', '<unk>', 'cat', 'the']
    assert tokenizer.decode(ids['test']) == ' the cat <unk> \n'


def test_bpe_reads_the_same_text_and_the_words_to_divide_by(prepare, tmp_path):
    prepare('wikitext2', archive(), '--tokenizer=bpe', '--vocab_size=270')
    ids, tokenizer, meta = read(tmp_path / 'out')
    assert [tokenizer.decode(ids[split]) for split in ('train', 'val', 'test')] == [TRAIN, VAL, TEST]
    assert meta['info']['words'] == {'train': 20, 'val': 6, 'test': 4}
    assert meta['options'] == {'tokenizer': 'bpe', 'vocab_size': 270}
    # A uniform guess among all ids costs ln(vocab_size) per token. By hand: per word, of which TEST has 4.
    total = len(ids['test']) * math.log(tokenizer.vocab_size)
    per_word = math.exp(total / meta['info']['words']['test'])
    assert per_word == pytest.approx(tokenizer.vocab_size ** (len(ids['test']) / 4))


def test_a_vocabulary_size_without_bpe_is_an_error(prepare):
    text = prepare('wikitext2', archive(), '--vocab_size=300', code=2)
    assert 'only for --tokenizer=bpe' in text


def test_the_vocabulary_of_gpt2_is_a_file_of_the_mirror_whose_hash_is_checked(prepare, tmp_path):
    vocabulary = '#version: 0.2\nĠ t\nh e\nĠt he\n'
    text = prepare('wikitext2', archive() | {'gpt2/vocab.bpe': vocabulary.encode()}, '--tokenizer=gpt2')
    assert 'gpt2/vocab.bpe is accepted by the hash in' in text          # which is not that of OpenAI's
    ids, tokenizer, meta = read(tmp_path / 'out')
    assert [tokenizer.decode(ids[split]) for split in ('train', 'val', 'test')] == [TRAIN, VAL, TEST]
    assert 258 in ids['test'] and meta['info']['vocab_size'] == 260


@real
def test_the_real_words_are_those_of_published_figures(prepare_real, tmp_path):
    prepare_real('wikitext2')
    ids, tokenizer, meta = read(tmp_path / 'out')
    counts = {'train': 2_088_628, 'val': 217_646, 'test': 245_569}
    assert meta['info'] == {'vocab_size': 33_278, 'words': counts}
    assert {split: len(found) for split, found in ids.items()} == counts
    assert ids['test'].count(tokenizer.id['<unk>']) == 15_218
    assert tokenizer.decode(ids['test'][:7]) == ' \n = Robert <unk> = \n \n'


@real
def test_the_real_text_has_1_2049_tokens_of_gpt2_per_word(prepare_real, tmp_path):
    prepare_real('wikitext2', '--tokenizer=gpt2')
    ids, tokenizer, meta = read(tmp_path / 'out')
    assert meta['info']['vocab_size'] == tokenizer.vocab_size == 50_257
    assert len(ids['test']) == 295_877 and meta['info']['words']['test'] == 245_569
    assert tokenizer.decode(ids['test']).startswith(' \n = Robert <unk> = \n')
