"""The machine: which device and dtype fit it, PyTorch's global flags, and its speed in FLOP/s.

A FLOP is one floating-point multiplication or addition.
"""
import copy
import ctypes
import math
import os
import time

import torch
from torch.utils._triton import has_triton
from torch.utils.flop_counter import FlopCounterMode

from core import errors
from core.errors import UserError


def devices():
    """Return the kinds of device that this machine has, the fastest last."""
    kinds = ['cpu']
    if torch.cuda.is_available():
        kinds.append('cuda')
    if torch.backends.mps.is_available():
        kinds.append('mps')
    return kinds


def native_dtypes(kind):
    """Return the names of the dtypes that a device of this kind multiplies in hardware, the fastest first."""
    if kind == 'cuda':
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == 'cpu':
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        native = False
    return ['bfloat16', 'float32'] if native else ['float32']


def resolve(device='auto', dtype='auto', compile='auto'):
    """Return (device, dtype, compile), with 'auto' replaced by what fits this machine, and why, as text.

    Raises UserError if this machine does not have the device.
    """
    reasons = {'device': 'as asked', 'dtype': 'as asked', 'compile': 'as asked'}
    if device == 'auto':
        device = devices()[-1]
        reasons['device'] = 'no GPU found' if device == 'cpu' else 'found'
    kind = device.split(':')[0]
    count = torch.cuda.device_count() if kind == 'cuda' else 1
    legal = [kind] + [f'{kind}:{i}' for i in range(count)]
    numbered = f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if device == 'cuda' else device
    if kind not in devices() or numbered not in legal:
        raise UserError(f'device {device!r} is not here; this machine has {", ".join(devices())}')
    if dtype == 'auto':
        dtype = native_dtypes(kind)[0]
        reasons['dtype'] = 'native here' if dtype == 'bfloat16' else 'no native bfloat16'
        if kind == 'cuda' and dtype == 'float32':
            dtype = 'float16'
    if compile == 'auto':
        compile = kind == 'cuda' and has_triton()
        if compile:
            reasons['compile'] = 'triton is here'
        elif kind == 'cuda':
            reasons['compile'] = 'no triton'
        else:
            reasons['compile'] = f'takes a minute and gains little on {kind}'
    text = (f'device {device} ({reasons["device"]}), dtype {dtype} ({reasons["dtype"]}), '
            f'compile {compile} ({reasons["compile"]})')
    return device, dtype, compile, text


def set_torch_flags(device, dtype, threads=0, deterministic=False):
    """Set PyTorch's global flags, once, before anything runs. threads: of a CPU; 0: PyTorch's choice.

    On CUDA: TF32 unless float32 is asked for, and the fastest convolution for each shape. Attention does
    without cuDNN, which plans again for every length and, in PyTorch 2.11 to 2.13, may give gradients of NaN
    under a mask (PyTorch issue 196678).
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    tune_malloc()
    if device.startswith('cuda'):
        torch.set_float32_matmul_precision('highest' if dtype == 'float32' else 'high')
        torch.backends.cudnn.allow_tf32 = dtype != 'float32'
        torch.backends.cudnn.benchmark = not deterministic      # another run may find another one faster
        torch.backends.cuda.enable_cudnn_sdp(False)
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.use_deterministic_algorithms(True)


def tune_malloc(enabled=True):
    """Let glibc keep the memory of freed tensors. By default it gives large blocks back to the system.

    Each step of training then maps the same memory again, page by page, which on a CPU takes convolutional
    nets much of their time. enabled=False sets glibc's own limits; where there is no glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return
    mallopt(-3, 2**30 if enabled else 2**25)        # M_MMAP_THRESHOLD, in bytes; the numbers are malloc.h's
    mallopt(-1, 2**31 - 1 if enabled else 2**26)    # M_TRIM_THRESHOLD
    mallopt(-2, 2**29 if enabled else 2**17)        # M_TOP_PAD


def synchronize(device):
    """Wait until `device` has finished the work in its queue. A CPU has none."""
    kind = torch.device(device).type
    if kind == 'cuda':
        torch.cuda.synchronize(device)
    elif kind == 'mps':
        torch.mps.synchronize()


def peak_flops(device, dtype, seconds=0.5):
    """Return the FLOP/s of one large matrix product: the fastest of those that fit into `seconds`."""
    size = 2048 if device == 'cpu' else 8192
    a = torch.randn(size, size, device=device).to(dtype)
    fastest = math.inf
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or fastest == math.inf:
        synchronize(device)
        start = time.perf_counter()
        a @ a
        synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def step_flops(net, split, micro_batches, step):
    """Return the FLOPs of the forward and backward pass of a step: the mean of four where rows differ in
    length.

    `micro_batches(step)` are the step's arrays of rows of `split`.
    """
    if not split.ragged:
        rows = micro_batches(step)
        return len(rows) * count_flops(net, split, rows[0])
    steps = range(step, step + 4)
    counts = [count_flops(net, split, rows) for i in steps for rows in micro_batches(i)]
    return sum(counts) / len(steps)


@torch.no_grad()
def count_flops(net, split, rows):
    """Return the FLOPs of the forward and backward pass over one micro-batch.

    Only the forward pass is counted. The backward pass has two products for each of its products, one for the
    gradient of the inputs and one for that of the weights; the images at the first layer need none, which is
    neglected. (torch's counter takes the backward pass of a depthwise convolution for that of a full one.)
    Two rows are enough: all are padded to the longest. They go through a copy of `net`, whose BatchNorm
    statistics stay as they are.
    """
    some = rows[-2:]                    # of rows sorted by length the longest
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            copy.deepcopy(net)(**split.batch(some))
    except Exception as error:
        raise errors.with_advice(error, len(some))
    return 3 * counter.get_total_flops() * len(rows) / len(some)
