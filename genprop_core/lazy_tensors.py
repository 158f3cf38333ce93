"""Tensors that stay on disk until they are asked for, so that a model is loaded or converted one tensor at a time."""
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import GenPropError
from .files import atomic, open_tensors

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class LazyTensor:
    """A tensor's shape and dtype now, its values from `read()` (a view of the memory-mapped file where possible)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    def map(self, function) -> "LazyTensor":
        """The tensor `function(read())`; its shape and dtype are found on the meta device, without reading."""
        made = function(torch.empty(self.shape, dtype=self.dtype, device="meta"))
        return LazyTensor(tuple(made.shape), made.dtype, lambda: function(self.read()))

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "LazyTensor":
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @classmethod
    def cat(cls, parts: list["LazyTensor"]) -> "LazyTensor":
        """The parts joined along their first dimension."""
        shape = (sum(p.shape[0] for p in parts), *parts[0].shape[1:])
        return cls(shape, parts[0].dtype, lambda: torch.cat([p.read() for p in parts]))


def read_lazy(path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """All tensors of a safetensors file, unread, and its metadata.

    Raises GenPropError when the file is missing, truncated, not safetensors, or holds a number format unknown here.
    """
    file = open_tensors(path)
    tensors = {}
    for key in file.keys():
        view = file.get_slice(key)
        if view.get_dtype() not in DTYPES:
            raise GenPropError(
                f"Expected weights in fp32, bf16 or fp16, but {path} holds {key} as {view.get_dtype()}: "
                "it is quantised. Use the fp16 or fp32 file."
            )
        tensors[key] = LazyTensor(
            tuple(view.get_shape()), DTYPES[view.get_dtype()], lambda file=file, key=key: file.get_tensor(key)
        )
    return tensors, file.metadata() or {}


def write_lazy(path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file while holding one tensor in memory at a time.

    The format is 8 bytes of header length, the header as JSON, then the tensors' bytes without gaps. Wider dtypes come
    first, as the safetensors library orders them, so that every tensor starts at a multiple of its item size.
    """
    order = sorted(tensors, key=lambda k: (-tensors[k].dtype.itemsize, k))
    header: dict = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key in order:
        count = 1
        for size in tensors[key].shape:
            count *= size
        begin, end = end, end + count * tensors[key].dtype.itemsize
        header[key] = {"dtype": NAMES[tensors[key].dtype], "shape": list(tensors[key].shape),
                       "data_offsets": [begin, end]}  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic(path) as temporary, open(temporary, "wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for key in order:
            values = tensors[key].read()
            if tuple(values.shape) != tensors[key].shape or values.dtype != tensors[key].dtype:
                raise GenPropError(
                    f"{key} has another shape or dtype than announced; {Path(path).name} is not written."
                )
            out.write(values.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def materialise(model: torch.nn.Module, tensors: Mapping[str, LazyTensor], dtype: torch.dtype, what: str) -> None:
    """Fills a model built on the meta device, tensor by tensor, in `dtype`; frozen and in eval mode afterwards.

    tensors must have exactly the model's keys and shapes. Values are copied out of the file, so that it may be moved or
    replaced while the model lives; beyond the model itself only one tensor is in memory. what: names the weights in
    errors. Raises GenPropError for missing, surplus or misshapen tensors.
    """
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    missing, surplus = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing:
        raise GenPropError(f"{what} lacks {_few(missing)}. The file is incomplete; get it again from its source.")
    if surplus:
        raise GenPropError(f"{what} holds {_few(surplus)}, which its configuration has no place for.")
    for key, shape in expected.items():
        if tensors[key].shape != shape:
            raise GenPropError(
                f"{what}: expected {key} of shape {list(shape)}, got {list(tensors[key].shape)}. "
                "The weights and their configuration do not match."
            )
    values = {
        key: tensors[key].read().to(dtype=dtype, copy=True, memory_format=torch.contiguous_format) for key in expected
    }
    model.load_state_dict(values, assign=True)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:  # not in any file: CLIP's position numbers are the only ones
            module, _, leaf = name.rpartition(".")
            if leaf != "position_ids":
                raise GenPropError(f"{what}: the buffer {name} is not in the file and has no known value.")
            model.get_submodule(module).register_buffer(
                leaf, torch.arange(buffer.shape[-1]).expand(tuple(buffer.shape)), persistent=False
            )
    model.requires_grad_(False).eval()


def _few(keys) -> str:
    """Like `3 tensors (a, b, ...)`: enough to recognise them in one line."""
    keys = sorted(keys)
    return f"{len(keys)} tensor{'s' * (len(keys) > 1)} ({', '.join(keys[:2])}{', ...' * (len(keys) > 2)})"
