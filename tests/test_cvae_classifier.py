"""results/cvae_classifier.py: its fractions are what they say, with stand-ins for VAE and classifier."""
import importlib.util
import types

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import data
from conftest import ROOT
from models import cnn, cvae
from sampling import save_run


def load_script():
    spec = importlib.util.spec_from_file_location('cvae_classifier', ROOT / 'results/cvae_classifier.py')
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


SCRIPT = load_script()


def save_images(path, seed=0):
    """Write a data set of noise, in which the label of row i is i % 4. Return {split: {field: rows}}."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, n in (('train', 40), ('val', 10), ('test', 30)):
        splits[split] = {'image': rng.integers(0, 256, (n, 1, 12, 12), np.uint8),
                         'label': (np.arange(n) % 4).astype(np.uint8)}
    info = {'n_class': 4, 'channels': 1, 'size': [12, 12], 'mean': [0.5], 'std': [0.25]}
    data.save(str(path), splits, info=info)
    return splits


def randomize(net):
    for p in net.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return net.eval()


def make_classifier():
    return randomize(cnn.Model(cnn.Config(n_class=4, channels=1, mean=(0.5,), std=(0.25,), width=4)))


@pytest.fixture
def trained(tmp_path):
    """(splits, classifier) of a data set in images/; checkpoints of a VAE in vae/ and of it."""
    splits = save_images(tmp_path / 'images')
    torch.manual_seed(0)
    vae = randomize(cvae.Model(cvae.Config(n_class=4, size=(12, 12), width=4, latent=3)))
    classifier = make_classifier()
    save_run(tmp_path / 'vae', 'cvae', vae, tmp_path / 'images')
    save_run(tmp_path / 'classifier', 'cnn', classifier, tmp_path / 'images')
    return splits, classifier


@pytest.fixture
def measured(launch, tmp_path):
    """measured(classifier): (exit code, text) of the script in tmp_path."""
    def measured(classifier):
        argv = '--out_dir=vae', f'--classifier={classifier}', '--device=cpu'
        return launch('results/cvae_classifier.py', *argv, cwd=tmp_path)
    return measured


def test_the_script_prints_five_fractions_and_their_numbers(trained, measured):
    splits, classifier = trained
    code, text = measured('classifier')
    assert code == 0, text
    lines = text.splitlines()
    numbers = [int(line.rsplit(' ', 1)[1].replace(',', '')) for line in lines]
    assert numbers == [30, 4000, 30, 30, 30]
    with torch.no_grad():
        predicted = classifier.logits(torch.from_numpy(splits['test']['image'])).argmax(1).numpy()
    accuracy = (predicted == splits['test']['label']).mean()
    assert f'{accuracy:.4f}' in lines[0]
    assert measured('classifier') == (code, text)               # the seed decides


class StandIn:
    """A VAE that writes the label into an image, and a classifier that reads it there.

    But a new image of class 0 gets a 1, and an image that is changed to class 2 its true class.
    """
    config = types.SimpleNamespace(n_class=4)

    def write(self, label):
        return label.byte().view(-1, 1, 1, 1).expand(-1, 1, 12, 12)

    def sample(self, label, generator):
        return self.write(label.clamp(min=1))

    def reconstruct(self, image, label, new_label):
        return self.write(torch.where(new_label == 2, label, new_label))

    def encode(self, image, label, generator):
        return F.one_hot(label, 4).float()

    def logits(self, image):
        return F.one_hot(image[:, 0, 0, 0].long() % 4, 4).float()


def test_the_fractions_are_what_they_say(trained, tmp_path):
    splits, _ = trained
    path = str(tmp_path / 'images')
    test = data.load_split(path, 'test', ['image', 'label'])
    train = data.load_split(path, 'train', ['image', 'label'])
    hits = SCRIPT.measure(StandIn(), StandIn(), test, train, torch.Generator().manual_seed(0))
    real, new, given, still, linear = [hit.float().mean().item() for hit in hits.values()]
    assert real == pytest.approx((splits['test']['image'][:, 0, 0, 0] % 4 == splits['test']['label']).mean())
    assert new == 0.75
    assert 0 < still < 0.5
    assert given == pytest.approx(1 - still)
    assert linear == 1


def test_a_linear_probe_finds_what_is_linear_and_nothing_in_noise():
    torch.manual_seed(0)
    label = torch.arange(4).repeat(250)
    x = torch.randn(1000, 5)

    def accuracy():
        probe = SCRIPT.fit_linear_probe(x[:500], label[:500], 4)
        return (probe(x[500:]) == label[500:]).float().mean()

    assert 0.15 < accuracy() < 0.4
    x[torch.arange(1000), label] += 9
    assert accuracy() > 0.99


def test_what_is_not_a_classifier_of_these_classes_is_an_error(trained, measured):
    code, text = measured('vae')
    assert code == 2
    assert 'vae is not a classifier of 4 classes' in text


def test_a_classifier_of_other_data_is_an_error(trained, measured, tmp_path):
    save_images(tmp_path / 'other', seed=1)
    save_run(tmp_path / 'stranger', 'cnn', make_classifier(), tmp_path / 'other')
    code, text = measured('stranger')
    assert code == 2
    assert 'stranger was trained on other data than vae' in text
