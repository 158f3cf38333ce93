"""A VAE on its own: TAESD as a fast, low-memory replacement, or the VAE of another base."""
from pathlib import Path

import torch

from . import svd_config
from .diffusers_folder import open_part
from .errors import GenPropError
from .lazy_tensors import LazyTensor, read_lazy
from .single_file import open_single_file
from .svd_keys import REQUIRED
from .svd_parts import Part, load_part, meta_model, official_entries, refuse_quantised, to_diffusers

PREFIX = REQUIRED["vae"]


def load_vae(path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """An AutoencoderTiny or AutoencoderKLTemporalDecoder in `dtype`, frozen, on the CPU.

    path: a diffusers VAE folder; TAESD as one file in diffusers' or ComfyUI's names; one of the pair taesd_encoder and
    taesd_decoder (.safetensors), the other beside it; or a whole SVD file or folder, whose VAE is taken.
    Raises GenPropError for anything else, and for the TAESD of other models.
    """
    path = Path(path)
    whole = path.absolute()  # a file of Hugging Face's cache says nothing by its own name
    if any(other in str(whole).lower() for other in ("taesdxl", "taesd3", "taef1")):
        raise GenPropError(f"Expected SD 1.5's TAESD (its latents are SVD's), got another's ({whole}). Use taesd.")
    if path.is_dir():
        part = open_part(path / "vae" if (path / "vae").is_dir() else path, "vae")
    elif path.suffix.lower() in (".pth", ".pt", ".ckpt", ".bin"):
        raise GenPropError(f"Expected a .safetensors VAE, got {path.name}: pickles are not read. Use safetensors.")
    else:
        part = _open_file(path)
    return load_part("vae", part, dtype, f"The VAE {path}")


def _open_file(path: Path) -> Part:
    tensors = read_lazy(path)[0]
    if any(k.startswith("model.diffusion_model.") for k in tensors):
        return open_single_file(path).vae
    refuse_quantised(path, tensors)
    if "encoder.layers.0.weight" in tensors and "decoder.layers.0.weight" in tensors:
        return Part(dict(svd_config.TINY_VAE), tensors)
    if not any(k.startswith("taesd_") for k in tensors):
        tensors = _both_halves(path, tensors)
    tensors = {PREFIX + k: t for k, t in tensors.items() if k not in ("vae_scale", "vae_shift")}
    config = svd_config.vae_config({k.removeprefix(PREFIX): t.shape for k, t in tensors.items()})
    entries = official_entries("vae", "AutoencoderTiny", meta_model("vae", config).state_dict(), config)
    if unknown := sorted(tensors.keys() - {e.official for e in entries}):
        raise GenPropError(f"Expected SD 1.5's TAESD, but {path} holds {unknown[0].removeprefix(PREFIX)}. Use taesd.")
    return Part(config, to_diffusers(entries, tensors))


def _both_halves(path: Path, tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """TAESD's published pair of files: the one given and the one beside it."""
    names = {half: path.name.replace("encoder", half).replace("decoder", half) for half in ("encoder", "decoder")}
    if "1.conv.0.weight" not in tensors and "3.conv.0.weight" not in tensors or path.name not in names.values():
        raise GenPropError(
            f"Expected SVD's VAE or TAESD, got {path} (its first key is {min(tensors, default='none')}). "
            "Use a diffusers VAE folder, a TAESD file, or an SVD checkpoint."
        )
    out = {}
    for half, name in names.items():
        if not path.with_name(name).is_file():
            raise GenPropError(f"Expected TAESD's {half} as {path.with_name(name)}. Put both files there.")
        out |= {f"taesd_{half}.{k}": t for k, t in read_lazy(path.with_name(name))[0].items()}
    return out
