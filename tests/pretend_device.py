"""A device that is none: tensors that say they are on another device and are computed on the CPU.

Where no GPU is at hand, this finds what would fail on one: an operation that mixes tensors of two devices is refused,
as CUDA refuses it. It says nothing of speed, memory, or kernels that only a GPU has.
"""

import warnings
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")  # unlike any other, autograd takes it without a driver; what is on it here has values


class Elsewhere(torch.Tensor):
    """Holds a CPU tensor, `here`, and says it is on DEVICE."""

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip

    def __init__(self, here):
        self.here = here

    def __repr__(self):
        return f"Elsewhere({self.here})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


INDEXED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}  # CUDA takes indices of the CPU
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._copy_from.default}


def compute(function, args, kwargs):
    """One operation of PyTorch. Raises RuntimeError where it has tensors of both devices, but for copies, and for CPU
    tensors of no dimension, which CUDA takes as numbers."""
    kwargs, tensors = dict(kwargs), [*_tensors(args), *_tensors(kwargs.values())]
    away = [t for t in tensors if isinstance(t, Elsewhere)]
    home = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() > 0]
    if away and home and function not in COPIES and function.overloadpacket not in INDEXED:
        raise RuntimeError(f"Expected all tensors on one device for {function}, got {DEVICE} and cpu.")
    wanted = kwargs.get("device")
    if wanted is not None and torch.device(wanted).type == DEVICE.type:
        goes, kwargs["device"] = True, torch.device("cpu")
    else:
        goes = bool(away) if wanted is None else False
    if kwargs.get("generator") is not None and goes:
        raise RuntimeError(f"Expected a generator of {DEVICE} for {function}, got one of the cpu.")
    out = function(*_each(_here, args), **{k: _each(_here, v) for k, v in kwargs.items()})
    if not function._schema.returns:
        return None
    if function in COPIES and function is not torch.ops.aten._to_copy.default:
        goes = isinstance(tensors[0], Elsewhere)
    if function._schema.is_mutable and tensors and not isinstance(out, (list, tuple)):
        return tensors[0]
    return _each(_there, out) if goes else out


def _here(value):
    return value.here if isinstance(value, Elsewhere) else value


def _there(value):
    return Elsewhere(value) if isinstance(value, torch.Tensor) else value


def _tensors(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _each(change, value):
    """`value`, or every member of a list or tuple, changed."""
    return type(value)(_each(change, v) for v in value) if isinstance(value, (list, tuple)) else change(value)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class _FromValues(TorchFunctionMode):
    """torch.tensor and its like, which fill a tensor on its device, and `tolist`: no operation can be seen in these."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        wanted = kwargs.get("device")
        if function in (torch.tensor, torch.as_tensor) and wanted is not None and torch.device(wanted) == DEVICE:
            return function(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        if function is torch.Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].cpu().tolist()
        return function(*args, **kwargs)


@contextmanager
def pretend_device():
    """Within the block, DEVICE can be used like a GPU."""
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Mode(), _FromValues(), warnings.catch_warnings():
            # weights that are loaded there are copied there: it has values
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter", UserWarning)
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)
