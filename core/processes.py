"""Several processes that train one model, one per GPU, started by torchrun. One process needs none of it."""
import os
import sys

import torch
import torch.distributed as dist

from core import errors
from core.errors import UserError


def from_environment():
    """Return the number of this process and how many torchrun has started: 0 and 1 without torchrun."""
    if 'RANK' not in os.environ:
        return 0, 1
    given = {name: os.environ.get(name, '') for name in ('RANK', 'WORLD_SIZE')}
    if not all(value.isdecimal() for value in given.values()):
        raise UserError(f'expected the numbers of torchrun in the environment, got {given}')
    rank = int(given['RANK'])
    world = int(given['WORLD_SIZE'])
    if rank >= world:
        raise UserError(f'RANK {rank} is not one of WORLD_SIZE {world} processes, which count from 0')
    return rank, world


def join(device):
    """Join the process group that torchrun started and return the device of this process."""
    rank = int(os.environ['RANK'])
    gpu = None
    if device == 'cuda':
        device = f'cuda:{os.environ["LOCAL_RANK"]}'
        torch.cuda.set_device(device)
        gpu = torch.device(device)
    store, *_ = next(dist.rendezvous('env://'))
    # If a process dies, torchrun starts all again. A prefix keeps this attempt apart from the last one.
    attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    dist.init_process_group('nccl' if gpu else 'gloo', store=dist.PrefixStore(attempt, store), rank=rank,
                            world_size=int(os.environ['WORLD_SIZE']), device_id=gpu)
    sys.excepthook = errors.excepthook      # torch has replaced it by one that does not know a UserError
    return device


def check_agreement(facts):
    """Raise UserError if a process has other `facts`, a dict, than the first one."""
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, facts)
    differing = []
    for key, value in everyone[0].items():
        if any(other.get(key) != value for other in everyone):
            differing.append(key)
    if differing:
        raise UserError(f'the processes disagree on {", ".join(differing)}')


def rank_and_world():
    """Return the number of this process and how many there are."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def broadcast_buffers(net):
    """Give every process the first one's buffers: BatchNorm's statistics differ from process to process."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def from_first(number, device):
    """Return the first process's number, on every process."""
    if not dist.is_initialized():
        return number
    tensor = torch.tensor(float(number), dtype=torch.float64, device=device)    # exact for numbers of steps
    dist.broadcast(tensor, 0)
    return tensor.item()


def largest(number, device):
    """Return the largest number of any process."""
    if not dist.is_initialized():
        return number
    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.item()


def leave(code):
    """Exit with `code`, all processes together: gloo may abort one that still runs when another ends."""
    if dist.is_initialized():
        dist.barrier()
        os._exit(code)
    raise SystemExit(code)


# --- sums: {name: tensor}, as a model's forward returns them

def add(total, sums, weight=1.0):
    """Return {name: tensor} `total` with `weight` times the sums of one forward added, in float64.

    `total` may be empty. Raises TypeError for a sum that is not float32.
    """
    added = {}
    for name, value in sums.items():
        dtype = getattr(value, 'dtype', type(value))
        if dtype != torch.float32:
            raise TypeError(f'forward returned {name!r} as {dtype}, expected a float32 tensor')
        value = value.detach() * weight
        if value.device.type != 'mps':          # which has no float64
            value = value.double()
        added[name] = total[name] + value if total else value
    return added


def all_reduce(sums):
    """Return the sums added up over all processes. They travel as one message."""
    if not dist.is_initialized():
        return sums
    vector = pack(sums)
    dist.all_reduce(vector)
    return unpack(vector, sums)


def to_host(sums):
    """Return the sums as float64 tensors on the CPU. They travel as one copy."""
    return unpack(pack(sums).cpu().double(), sums)


def pack(sums):
    """Return the sums end to end as one vector of the first one's dtype."""
    first = next(iter(sums.values()))
    return torch.cat([value.reshape(-1).to(first) for value in sums.values()])


def unpack(vector, sums):
    """Return the parts of a vector that pack made, under the names and in the shapes of `sums`."""
    sizes = [value.numel() for value in sums.values()]
    parts = vector.split(sizes)
    return {name: part.view(value.shape) for (name, value), part in zip(sums.items(), parts)}
