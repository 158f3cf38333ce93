"""From pictures to a GENPROP_CONDITION, with ComfyUI's VAE and CLIP image encoder and genprop_core's formulas."""
import math

import comfy.model_management as mm
import torch

from ..genprop_core import conditioning as cond
from ..genprop_core.errors import GenPropError
from ..genprop_core.pipeline import check_aspect, nearest_size
from ..genprop_core.sampler import SourceFeatures, source_features
from .sockets import Adapters, EncodedCondition, Segment, Told

HIDE = ("black out", "blur")
SQUEEZE = 0.1  # of the aspect ratio: more of it is seen
SCALE_ROUNDED = 0.02  # of a VAE's scale, which ComfyUI keeps in the VAE's dtype: bf16 alone is off by up to 0.4 %


def channels_first(image: torch.Tensor) -> torch.Tensor:
    """IMAGE [T,H,W,C] -> [T,3,H,W], without alpha; one channel of grey becomes three."""
    image = image[..., :3] if image.shape[-1] > 2 else image[..., :1].expand(*image.shape[:-1], 3)
    return image.movedim(-1, 1).float()


def working_size(height, width, wanted_height, wanted_width, multiple) -> tuple[int, int]:
    """(height, width) to work at, in the multiples that the base needs. 0 means the source's own; with one of the two
    given, what keeps the source's aspect."""
    if wanted_height and not wanted_width:
        width = width * wanted_height / height
    elif wanted_width and not wanted_height:
        height = height * wanted_width / width
    out = []
    for name, own, wanted in (("height", height, wanted_height), ("width", width, wanted_width)):
        if wanted % multiple:
            near = max(multiple, round(wanted / multiple) * multiple)
            raise GenPropError(f"Expected a {name} that is a multiple of {multiple} for this base, got {wanted}. "
                               f"Use {near}, or 0 for the source's.")  # fmt: skip
        out.append(wanted or max(multiple, round(own / multiple) * multiple))
    return tuple(out)


def unsqueezed_size(height, width, wanted_height, wanted_width, multiple) -> tuple[int, int]:
    """`working_size` for frames that are brought to it as they are. Where that squeezes them visibly, and another size
    of that area would not (small ones may have none): that one, or a GenPropError for two sides that were wanted."""

    def squeezed(size):
        return abs(math.log(size[0] / size[1] * width / height)) > SQUEEZE

    size = working_size(height, width, wanted_height, wanted_width, multiple)
    near = nearest_size(height / width, size[0] * size[1], multiple)
    if not squeezed(size) or squeezed(near):
        return size
    if wanted_height and wanted_width:
        raise GenPropError(
            f"Expected a width and height of about the source's aspect ratio ({width}x{height}), got "
            f"{size[1]}x{size[0]}: the picture would be squeezed. Use {near[1]}x{near[0]}."
        )
    return near


def check_pictures(source, keyframe, index, mask) -> None:
    """Raises GenPropError for an input that cannot be meant: [T,H,W,C] source, keyframe, [N,H,W] mask or None."""
    if source.ndim != 4 or len(source) < 2:
        raise GenPropError(f"Expected a source of at least 2 frames, got {len(source)}. Connect the whole clip.")
    if len(keyframe) != 1:
        raise GenPropError(f"Expected one keyframe, got {len(keyframe)} images. Connect the one frame that was edited.")
    if not 0 <= index < len(source):
        raise GenPropError(f"Expected a keyframe index from 0 to {len(source) - 1} for this source, got {index}. "
                           "Count frames from 0.")  # fmt: skip
    check_aspect(keyframe.shape[1:3], source.shape[1:3])
    check_mask_count(mask, len(source))


def check_mask_count(mask, frames) -> None:
    if mask is not None and len(mask) not in (1, frames):
        raise GenPropError(f"The mask has {len(mask)} frames, the video {frames}. Give one mask, or {frames}.")


def fit_mask(mask, frames, height, width) -> torch.Tensor:
    """MASK [1 or T,H,W] -> [T,1,height,width] in [0,1]."""
    mask = torch.nn.functional.interpolate(mask[:, None].float(), (height, width), mode="bilinear", antialias=True)
    return mask.clamp(0, 1).expand(frames, -1, -1, -1)


def hide(frames, mask, how) -> torch.Tensor:
    """frames [T,3,H,W] with the masked region black or strongly blurred, for what the SCE sees."""
    if how not in HIDE:
        raise GenPropError(f"Expected {' or '.join(HIDE)} as the way to hide the masked region, got {how!r}.")
    return cond.hide(frames, mask, "blur" if how == "blur" else "black")


def passes(num_frames: int, index: int) -> list[tuple[int, ...]]:
    """The frames of every pass, each starting at the keyframe: forward from it, then backward from it."""
    forward, backward = tuple(range(index, num_frames)), tuple(range(index, -1, -1))
    return [frames for frames in (forward, backward) if len(frames) > 1]


def vae_latents(vae, frames) -> torch.Tensor:
    """[N,3,H,W] in [0,1] -> unscaled latents [N,4,h,w] by ComfyUI's VAE. Raises GenPropError for a VAE not SVD's."""
    scale = getattr(vae.first_stage_model, "vae_scale", None)
    if scale is not None and abs(float(scale) / cond.SCALING - 1) > SCALE_ROUNDED:
        raise GenPropError(
            f"Expected SVD's VAE or taesd, got a tiny VAE with scale {float(scale):.2g} instead of {cond.SCALING}. "
            "Choose taesd in Load VAE, or the checkpoint's own VAE."
        )
    latents = vae.encode(frames.movedim(1, -1))  # [N,H,W,3] -> [N,4,h,w]
    expected = (len(frames), 4, frames.shape[2] // 8, frames.shape[3] // 8)
    if tuple(latents.shape) != expected:
        raise GenPropError(f"Expected latents of shape {expected} from the VAE, got {tuple(latents.shape)}. "
                           "Connect the VAE of the SVD checkpoint.")  # fmt: skip
    return latents.float()


def clip_embedding(clip_vision, picture, adapters: Adapters) -> torch.Tensor:
    """[1,3,H,W] in [0,1] -> [1,1,C]. The pixels are SVD's own formula, without ComfyUI's centre crop."""
    if clip_vision is None:
        raise GenPropError(
            "Expected the CLIP_VISION of an SVD checkpoint, but the file that was loaded has none. Choose "
            "svd_xt.safetensors, or another SVD checkpoint, in Load Checkpoint Image Only (in older ComfyUIs Image "
            "Only Checkpoint Loader)."
        )
    mm.load_models_gpu([clip_vision.patcher])
    pixels = cond.clip_pixels(picture * 2 - 1).to(clip_vision.load_device)
    embedding = clip_vision.model(pixel_values=pixels, intermediate_output=-2)[2][:, None]
    wanted = adapters.base.cross_attention_dim
    if embedding.shape[-1] != wanted:
        raise GenPropError(
            f"Expected a CLIP_VISION with {wanted} numbers a picture for the adapters in {adapters.file.path}, got "
            f"{embedding.shape[-1]}. Choose adapters made for this MODEL in GenProp Load Adapters, or connect the "
            "CLIP_VISION of theirs."
        )
    return embedding.float().to(mm.intermediate_device())


def features(adapters: Adapters, condition: cond.Condition) -> SourceFeatures:
    """`source_features`, kept where ComfyUI keeps intermediate results."""
    patcher, module = adapters.patcher, adapters.patcher.model
    frames, _, height, width = condition.source.shape[1:]
    size = mm.dtype_size(next(module.parameters()).dtype)
    # attention that keeps its scores needs several times as much as one that does not
    lean = mm.xformers_enabled() or mm.pytorch_attention_flash_attention()
    wanted = (16 if lean else 64) * frames * height * width * max(module.config.tap_widths()) * size
    mm.load_models_gpu([patcher], memory_required=wanted)
    made, home = source_features(module, condition.to(patcher.load_device)), mm.intermediate_device()
    injected = made.injected and [f if f is None else f.to(home) for f in made.injected]
    return SourceFeatures(injected, None if made.edited is None else made.edited.to(home))


def segment(adapters: Adapters, frames, source, image, clip, micro, task, region=None) -> Segment:
    """One pass over `frames`. source: scaled latents [T,4,h,w] of the whole clip; image: unscaled ones of the keyframe
    that each frame is shown, [T,4,h,w]; region: [T,1,h,w], see `Condition.region`, or None."""
    picture, own, known = (None if v is None else v[list(frames)][None] for v in (image, source, region))
    condition = cond.Condition(picture, clip, micro, torch.tensor([task]), own, picture, known)
    return Segment(frames, condition, features(adapters, condition))


def encode(
    adapters: Adapters, clip_vision, vae, frames, keyframe, plan, told: Told, task, seed, region=None
) -> EncodedCondition:
    """The condition of a clip: frames [T,3,H,W] and keyframe [3,H,W], or [T,3,H,W] with the one of each frame, in
    [0,1] at the working size.

    plan: the frames of every pass (see `passes`); task: one the adapters know; seed: of the noise on the keyframe;
    region: [T,1,h,w], see `Condition.region`, or None.
    """
    task = adapters.file.adapters.task_index(task)
    keyframe, of_frame = cond.distinct(keyframe, len(frames))
    clip = clip_embedding(clip_vision, keyframe[:1], adapters)
    noisy = cond.augment_keyframe(keyframe * 2 - 1, told.noise_augmentation, seed) / 2 + 0.5
    image = vae_latents(vae, noisy)[of_frame]
    latents = vae_latents(vae, frames) * cond.SCALING
    micro = cond.micro_conditions(told.fps, told.motion_bucket, told.noise_augmentation)
    segments = tuple(segment(adapters, f, latents, image, clip, micro, task, region) for f in plan)
    height, width = frames.shape[2:]
    return EncodedCondition(adapters, segments, len(frames), width, height, told.fps, told.motion_bucket,
                            told.noise_augmentation)  # fmt: skip
