"""Data sets: named arrays in a folder, and readers that make batches of them.

A data set is a folder data/<name>/ with a file `<split>.<field>.bin` per field, raw and little-endian, and
meta.json, which names their dtypes and shapes. A field is of one of three kinds:

    fixed     rows of one shape, along the first axis: images, labels, masks
    stream    one long run of tokens; a row is a window of it
    ragged    rows of different lengths, end to end; `<split>.<field>.offsets.bin` says where each begins

    data.save('toy', {'train': {'tokens': ids}, 'val': {'tokens': more}}, {'tokens': 'stream'})
    split = data.load_split('toy', 'train', ['tokens'], block_size=64)
    split.batch(split.rows(step=0, batch_size=8, seed=0))       # {'tokens': (8, 65) int64}

The names below are those that scripts use. store.py writes and checks the files, preparation.py runs a data
set's prepare.py, loading.py opens the files of a split, and readers.py makes batches.
"""
from data.loading import fields_of, free_memory, load_split, load_splits
from data.preparation import prepare_if_missing
from data.store import check, damaged, file_hash, folder, hashes, save
