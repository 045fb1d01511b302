"""What the tests of samples/ share: run folders of models that were never trained by train.py."""
import dataclasses

import data
from core.checkpoint import FORMAT, save_checkpoint


def save_run(folder, model_name, net, dataset='', **changes):
    """Write best.pt of a run folder, from a model and the data set that it might have been trained on."""
    state = {'format': FORMAT, 'step': 7, 'model': net.state_dict(), 'config': dataclasses.asdict(net.config),
             'keys': {'model': model_name, 'dataset': str(dataset), 'prepare': ''},
             'tokenizer': None, 'info': {}, 'data': {}}
    if dataset:
        meta = data.check(dataset)
        state |= {'tokenizer': meta['tokenizer'], 'info': meta['info'], 'data': data.hashes(meta)}
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / 'best.pt', state | changes)
