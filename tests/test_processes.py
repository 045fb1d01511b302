"""Sums over micro-batches and processes: added in float64, packed into one message and taken apart again."""
import pytest
import torch

from core import processes


def test_a_sum_of_another_dtype_is_an_error_that_names_it():
    with pytest.raises(TypeError, match="'correct' as torch.int64"):
        processes.add({}, {'loss': torch.tensor(1.0), 'correct': torch.tensor(3)})


def test_sums_are_added_in_float64():
    total = {}
    for _ in range(3):
        total = processes.add(total, {'loss': torch.tensor(1e8), 'count': torch.tensor(1.0)})
        total = processes.add(total, {'loss': torch.tensor(1.0), 'count': torch.tensor(1.0)})
    assert total['loss'].item() == 3e8 + 3 and total['count'].item() == 6
    assert total['loss'].dtype == torch.float64


def test_unpack_takes_apart_what_pack_put_together():
    sums = {'loss': torch.tensor(2.0).double(), 'confusion': torch.arange(6.0).view(2, 3).double()}
    vector = processes.pack(sums)
    assert vector.tolist() == [2, 0, 1, 2, 3, 4, 5]
    parts = processes.unpack(vector, sums)
    assert list(parts) == list(sums) and all(torch.equal(parts[name], sums[name]) for name in sums)


def test_values_of_other_dtypes_travel_too():
    host = processes.to_host({'loss': torch.tensor(2.0).double(), 'grad_norm': torch.tensor(0.5)})
    assert host['grad_norm'].dtype == torch.float64 and host['grad_norm'].item() == 0.5


def test_one_process_communicates_with_none():
    sums = {'loss': torch.tensor(2.0).double()}
    assert processes.all_reduce(sums) is sums
    assert processes.from_first(3, 'cpu') == 3 and processes.largest(15, 'cpu') == 15
    assert processes.rank_and_world() == (0, 1)
