"""Classify texts by logistic regression on bags of words, to compare with models/classifier.py.

    pip install scikit-learn
    python results/imdb_logistic_regression.py

It reads the same three splits. The regularisation is chosen on val, test is read once. The results are in
results/language.md.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))    # the root of the repository

import numpy as np  # noqa: E402
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import accuracy_score, f1_score  # noqa: E402

import configurator  # noqa: E402
import data  # noqa: E402
from data import tokenizers  # noqa: E402

dataset = 'imdb'        # a data set with text and label
C_VALUES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]     # inverse strengths of the regularisation
BAGS = {
    'counts of words': CountVectorizer(),
    'TF-IDF of words': TfidfVectorizer(sublinear_tf=True),
    'TF-IDF of words and pairs of words': TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)}


def read(split):
    """Return the texts and the labels of a split: a list of n strings and an array (n,)."""
    reader = data.load_split(dataset, split, ['text', 'label'])
    tokenizer = tokenizers.load(data.check(dataset)['tokenizer'])
    texts = [tokenizer.decode(reader.row('text', i)) for i in range(reader.size)]
    labels = reader.read('label', np.arange(reader.size)).numpy()
    return texts, labels


if __name__ == '__main__':
    globals().update(configurator.read(__file__, sys.argv[1:]).options)
    train, train_label = read('train')
    val, val_label = read('val')
    test, test_label = read('test')
    majority = np.bincount(train_label).argmax()
    print(f'always the majority class of train: test accuracy {np.mean(test_label == majority):.4f}')
    for name, bag in BAGS.items():
        x = bag.fit_transform(train)                                # (rows, words), sparse
        x_val = bag.transform(val)
        fits = [LogisticRegression(C=C, max_iter=1000).fit(x, train_label) for C in C_VALUES]
        scores = [accuracy_score(val_label, fit.predict(x_val)) for fit in fits]
        best = fits[np.argmax(scores)]
        predicted = best.predict(bag.transform(test))
        print(f'{name}: {x.shape[1]:,} features, C {best.C}, val accuracy {max(scores):.4f}, test accuracy '
              f'{accuracy_score(test_label, predicted):.4f}, macro-F1 '
              f'{f1_score(test_label, predicted, average="macro"):.4f}')
