"""A device that is none: tensors that say they are on another device and are computed on the CPU.

Where no GPU is at hand, this finds what would fail on one: an operation that mixes tensors of two devices is refused,
as CUDA refuses it. It says nothing of speed, memory, or kernels that only a GPU has.
"""

import warnings
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Unlike any other device, autograd takes this one without a driver; with an index, nobody else means it.
DEVICE = torch.device("meta", 0)


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
COPIES = {torch.ops.aten._to_copy, torch.ops.aten.to, torch.ops.aten.copy_}


def compute(function, args, kwargs):
    """One operation of PyTorch. Raises RuntimeError where it has tensors of both devices, but for copies, and for CPU
    tensors of no dimension, which CUDA takes as numbers."""
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    away = [t for t in tensors if isinstance(t, Elsewhere)]
    home = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() > 0]
    if function is torch.ops.aten._has_compatible_shallow_copy_type.default:
        return not (away and home)
    copies = function.overloadpacket in COPIES
    if away and home and not copies and function.overloadpacket not in INDEXED:
        raise RuntimeError(f"Expected all tensors on one device for {function}, got {DEVICE} and cpu.")
    wanted = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.device)), None)
    goes = bool(away) if wanted is None else wanted == DEVICE
    if kwargs.get("generator") is not None and goes:
        raise RuntimeError(f"Expected a generator of {DEVICE} for {function}, got one of the cpu.")
    out = function(*_each(_here, args), **{k: _each(_here, v) for k, v in kwargs.items()})
    if not function._schema.returns:
        return None
    if function._schema.is_mutable and tensors and not isinstance(out, (list, tuple)):
        return tensors[0]
    return _each(_there, out) if goes else out


def _here(value):
    if isinstance(value, torch.device) and value == DEVICE:
        return torch.device("cpu")
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
def pretend_device(same_parameters=True):
    """Within the block, DEVICE can be used like a GPU.

    same_parameters: a module that is moved keeps its parameters, as with any device, so that an optimiser made before
    knows them. What holds on to tensors of its own, as ComfyUI does, does not allow it: then they are replaced.
    """
    future = torch.__future__
    flag = "swap" if same_parameters else "overwrite"  # the usual way puts other values into the tensor that is there
    get, put = (getattr(future, f"{verb}_{flag}_module_params_on_conversion") for verb in ("get", "set"))
    before = get()
    put(True)
    try:
        with _Mode(), _FromValues(), warnings.catch_warnings():
            # weights that are loaded there are copied there: it has values
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter", UserWarning)
            yield DEVICE
    finally:
        put(before)
