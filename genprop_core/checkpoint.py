"""Adapters on disk: one .safetensors file that says what it is, which base it was made for and how it was trained."""

import hashlib
import json
import logging
from dataclasses import dataclass

import torch

from .adapters import GenPropAdapters
from .config import AdapterConfig, BaseShape
from .errors import GenPropError
from .files import open_tensors, save_tensors

log = logging.getLogger(__name__)
FORMAT, VERSION = "genprop-adapters", "1"


@dataclass(frozen=True)
class Fingerprint:
    """Which base: its widths, and a hash of its first convolution in half precision."""

    widths: tuple[int, ...]
    conv_in: str

    @classmethod
    def of(cls, widths, conv_in_weight: torch.Tensor) -> "Fingerprint":
        data = conv_in_weight.detach().to("cpu", torch.float16).contiguous().numpy().tobytes()
        return cls(tuple(widths), hashlib.sha256(data).hexdigest()[:16])

    @classmethod
    def of_unet(cls, unet) -> "Fingerprint":
        return cls.of(BaseShape.from_unet(unet).block_out_channels, unet.conv_in.weight)


@dataclass(frozen=True)
class AdapterFile:
    """Loaded adapters with what their file says: the base they were made for and their training's provenance."""

    adapters: GenPropAdapters
    fingerprint: Fingerprint
    provenance: dict
    path: str
    digest: str  # of the tensors, to name the checkpoint beside a number

    def check(self, other: Fingerprint):
        """Raises GenPropError when the widths differ from the base's; warns when only the weights do."""
        if tuple(other.widths) != tuple(self.fingerprint.widths):
            raise GenPropError(
                f"The adapters in {self.path} were made for a base with widths {list(self.fingerprint.widths)}, "
                f"this base has {list(other.widths)}. "
                "Choose adapters trained on this base, or the base they were trained on."
            )
        if other.conv_in != self.fingerprint.conv_in:
            log.warning(
                "The adapters in %s were trained on another base of the same widths (fingerprint %s, this base %s). "
                "They may work on a fine-tuned base; look at the result.",
                self.path,
                self.fingerprint.conv_in,
                other.conv_in,
            )


def save_adapters(path, adapters: GenPropAdapters, fingerprint: Fingerprint, provenance: dict, dtype=torch.float16):
    """Writes adapters (fp16 by default, or fp32) with their configuration, base fingerprint and provenance."""
    tensors = {k: v.to(dtype) for k, v in adapters.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": adapters.config.to_json(),
        "base": json.dumps({"widths": list(fingerprint.widths), "conv_in": fingerprint.conv_in}),
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    save_tensors(path, tensors, metadata)


def digest_of(adapters: GenPropAdapters, dtype=torch.float16) -> str:
    """The digest that `load_adapters` gives for a file that `save_adapters` writes of these adapters."""
    digest = hashlib.sha256()
    for _, tensor in sorted(adapters.state_dict().items()):
        digest.update(_bytes(tensor.detach().to("cpu", dtype)))
    return digest.hexdigest()[:16]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def load_adapters(path, dtype: torch.dtype = torch.float32) -> AdapterFile:
    """Reads an adapter file. Raises GenPropError when it is not one or its tensors do not match its configuration."""
    digest = hashlib.sha256()
    with open_tensors(path) as file:
        meta = file.metadata() or {}
        if meta.get("format") != FORMAT:
            raise GenPropError(
                f"Expected GenProp adapters, but {path} has format {meta.get('format', 'none')!r}. "
                "Choose a file written by the trainer; base checkpoints and LoRAs are loaded elsewhere."
            )
        if meta.get("version") != VERSION:
            raise GenPropError(
                f"Expected adapter file version {VERSION}, got {meta.get('version')!r} in {path}. Update GenProp."
            )
        adapters = GenPropAdapters(AdapterConfig.from_json(meta.get("config", "")))
        expected = {k: tuple(v.shape) for k, v in adapters.state_dict().items()}
        found = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}
        if expected != found:
            wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
            raise GenPropError(
                f"The tensors in {path} do not match its configuration: {len(wrong)} differ, first {wrong[0]} "
                f"(expected {expected.get(wrong[0], 'absent')}, got {found.get(wrong[0], 'absent')}). "
                "The file is damaged; export it again."
            )
        state = {}
        for key in sorted(found):
            tensor = file.get_tensor(key)
            digest.update(_bytes(tensor))
            state[key] = tensor.to(dtype, copy=True)  # not mapped: see `files.load_tensors`
    adapters.load_state_dict(state, assign=True)
    adapters.sce.requires_grad_(True)
    adapters.sce.freeze_dead()
    base = json.loads(meta["base"])
    return AdapterFile(
        adapters=adapters.eval(),
        fingerprint=Fingerprint(tuple(base["widths"]), base["conv_in"]),
        provenance=json.loads(meta.get("provenance", "{}")),
        path=str(path),
        digest=digest.hexdigest()[:16],
    )
