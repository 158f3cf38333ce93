"""From pictures to what the UNet and the SCE are conditioned on. One function per quantity, for every route."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from .errors import GenPropError

SCALING = 0.18215  # of SVD's latents; AutoencoderTiny's latents carry it already
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_SIZE = 224
NOISE_AUGMENTATION = 0.02
ENCODED_PIXELS = 2**20  # encoded at a time: one frame at 1024x576, so that memory does not grow with the size


def _is_tiny(vae) -> bool:
    return type(vae).__name__ == "AutoencoderTiny"


def laid_out(vae, pixels: torch.Tensor) -> torch.Tensor:
    """The same values in the memory layout that the VAE is fastest with: channels last for TAESD, which has no norms.

    Its convolutions at full size take two thirds of the time then on a CPU; the result differs by rounding alone.
    """
    return pixels.contiguous(memory_format=torch.channels_last) if _is_tiny(vae) else pixels


@torch.no_grad()
def encode_frames(vae, frames: torch.Tensor, *, scaled: bool, chunk: int = 8) -> torch.Tensor:
    """[N,3,H,W] in [-1,1] -> the mode of the latents [N,4,H/8,W/8]; scaled=True multiplies z by 0.18215.

    Noisy and clean latents are scaled, the image condition is not. At most `chunk` frames are encoded at a time, fewer
    of a large size; each on its own, so this does not change the result beyond rounding.
    """
    first = next(vae.encoder.parameters())
    dtype, device = first.dtype, first.device
    chunk = max(1, min(chunk, ENCODED_PIXELS // (frames.shape[-2] * frames.shape[-1])))
    out = []
    for part in frames.split(chunk):
        encoded = vae.encode(laid_out(vae, part.to(device, dtype)))
        if _is_tiny(vae):
            out.append(encoded.latents if scaled else encoded.latents / SCALING)
        else:
            z = encoded.latent_dist.mode()
            out.append(z * SCALING if scaled else z)
    return torch.cat(out).contiguous()


@torch.no_grad()
def decode_latents(vae, latents: torch.Tensor, chunk: int = 8) -> torch.Tensor:
    """Scaled latents [T,4,h,w] -> frames float32 [T,3,8h,8w] in [0,1].

    SVD's temporal decoder mixes the frames of a chunk, so its result depends on `chunk`; AutoencoderTiny's does not.
    """
    first = next(vae.decoder.parameters())
    dtype, device = first.dtype, first.device
    out = []
    for part in latents.split(chunk):
        part = laid_out(vae, part.to(device, dtype))
        if _is_tiny(vae):
            frames = vae.decode(part, return_dict=False)[0]
        else:
            frames = vae.decode(part / SCALING, num_frames=part.shape[0], return_dict=False)[0]
        out.append((frames.float() / 2 + 0.5).clamp(0, 1))
    return torch.cat(out).contiguous()


def seeded(seed: int) -> torch.Generator:
    """A CPU generator; a seed that torch has no room for is taken modulo 2^64."""
    return torch.Generator().manual_seed(seed if -(2**63) <= seed < 2**64 else seed % 2**64)


def augment_keyframe(keyframe: torch.Tensor, amount: float, seed: int) -> torch.Tensor:
    """keyframe [...,3,H,W] in [-1,1] plus `amount` times noise from a CPU generator of its own seed.

    Every frame of a batch gets the same noise.
    """
    noise = torch.randn(keyframe.shape[-3:], generator=seeded(seed))
    return keyframe + amount * noise.to(keyframe.device, keyframe.dtype)


def _gaussian(factor: float) -> torch.Tensor:
    """The window of a Gaussian of sigma (factor - 1) / 2, cut off at 2 sigma, of an odd number of pixels."""
    sigma = max((factor - 1) / 2, 0.001)
    size = int(max(4 * sigma, 3)) // 2 * 2 + 1
    window = torch.exp(-(torch.arange(size) - size // 2).float().square() / (2 * sigma**2))
    return window / window.sum()


def clip_pixels(image: torch.Tensor) -> torch.Tensor:
    """[B,3,H,W] in [-1,1] -> CLIP's normalised pixels [B,3,224,224], by the formula of diffusers' SVD pipeline.

    The resize is bicubic after a Gaussian blur of sigma (factor - 1) / 2, on [-1,1]; then [0,1] and CLIP's statistics.
    The formula is here, since diffusers' own is private and importing it warns where there is no torchvision.
    """
    image = image.float()
    batch, _, height, width = image.shape
    across, down = (_gaussian(n / CLIP_SIZE).to(image.device) for n in (width, height))
    edge = (len(across) // 2, len(across) // 2, len(down) // 2, len(down) // 2)
    channels = F.pad(image, edge, mode="reflect").flatten(0, 1)[:, None]
    channels = F.conv2d(F.conv2d(channels, across.view(1, 1, 1, -1)), down.view(1, 1, -1, 1))
    blurred = channels.view(batch, 3, height, width)
    image = F.interpolate(blurred, size=(CLIP_SIZE, CLIP_SIZE), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(v, device=image.device).reshape(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return ((image + 1) / 2 - mean) / std


@torch.no_grad()
def clip_embedding(image_encoder, image: torch.Tensor) -> torch.Tensor:
    """[B,3,H,W] in [-1,1] -> CLIP image embeddings [B,1,D]."""
    parameter = next(image_encoder.parameters())
    pixels = clip_pixels(image.to(parameter.device))
    return image_encoder(pixels.to(parameter.dtype)).image_embeds.unsqueeze(1)


def micro_conditions(fps: float, motion_bucket: float, noise_augmentation: float, batch: int = 1) -> torch.Tensor:
    """[B,3]: fps - 1, motion bucket, noise augmentation. SVD was trained with fps - 1."""
    return torch.tensor([[fps - 1, motion_bucket, noise_augmentation]], dtype=torch.float32).repeat(batch, 1)


@dataclass(frozen=True)
class Condition:
    """What one window is made from. All tensors share batch B and frames T.

    image_latents: [B,T,4,h,w] unscaled, the (noise-augmented) keyframe seen by the UNet, one per frame.
    clip: [B,1,D]; micro: [B,3]; task: [B] indices.
    source: [B,T,4,h,w] scaled latents of the source video; keyframe: [B,T,4,h,w] unscaled, what the SCE reads.
    region: [B,T,1,h,w] in [-1,1]: 1 where the picture is known to be edited, so that the source is not kept there even
    if the adapters' selection has missed it; -1 where it is known not to be, so that the source is kept; 0, or None,
    where nothing is known.
    """

    image_latents: torch.Tensor
    clip: torch.Tensor
    micro: torch.Tensor
    task: torch.Tensor
    source: torch.Tensor
    keyframe: torch.Tensor
    region: torch.Tensor | None = None

    def to(self, device) -> "Condition":
        return self.each(lambda value: value.to(device))

    def each(self, change) -> "Condition":
        """With every tensor changed alike."""
        return replace(self, **{k: change(v) for k, v in vars(self).items() if v is not None})


def repeat_over_frames(latents: torch.Tensor, num_frames: int) -> torch.Tensor:
    """[B,4,h,w] -> [B,T,4,h,w], the same picture for every frame."""
    return latents[:, None].expand(-1, num_frames, -1, -1, -1)


def nearest(num_frames: int, keyframes) -> torch.Tensor:
    """[T] for every frame the index of the keyframe nearest to it; of two, the earlier. In training and use alike."""
    keys = torch.tensor(keyframes)
    return keys[(torch.arange(num_frames)[:, None] - keys[None]).abs().argmin(dim=1)]


def distinct(keyframe: torch.Tensor, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A window's keyframe [3,H,W], or [T,3,H,W] with the one of each frame -> (pictures [K,3,H,W], indices [T]).

    pictures[indices] is the one of each frame; frames in a row that share one have it once, so that it is encoded once.
    Raises GenPropError where the keyframes are neither one nor one per frame.
    """
    if keyframe.ndim == 3:
        return keyframe[None], torch.zeros(num_frames, dtype=torch.long)
    if len(keyframe) != num_frames:
        raise GenPropError(f"Expected one keyframe, or one for each of {num_frames} frames, got {len(keyframe)}.")
    other = torch.tensor([bool((a != b).any()) for a, b in zip(keyframe, keyframe[1:])], dtype=torch.bool)
    new = torch.cat([torch.ones(1, dtype=torch.bool), other])
    return keyframe[new], new.long().cumsum(0) - 1


def gaussian_blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur of [N,C,H,W] with a Gaussian cut at 3 sigma, edges repeated."""
    radius = max(1, int(3 * sigma + 0.5))
    t = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-t.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1).repeat(x.shape[1], 1, 1, 1)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel.transpose(2, 3), groups=x.shape[1])


def hide(source: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
    """source [T,3,H,W] in [0,1] with the region of mask [1 or T,1,H,W] made "black", or "blur"red beyond recognition.

    What the SCE sees of the source in a second pass and in training, so that the removed thing cannot come back.
    """
    if how == "black":
        return source * (1 - mask)
    return torch.lerp(source, gaussian_blur(source, min(source.shape[-2:]) / 16), mask)


def mask_to_latents(mask: torch.Tensor, blur: float = 1.0, factor: int = 8) -> torch.Tensor:
    """Mask [N,1,H,W] in [0,1] -> soft mask [N,1,H/8,W/8]: Gaussian blur (pixels), then the mean of every patch."""
    mask = gaussian_blur(mask, blur) if blur > 0 else mask
    return F.avg_pool2d(mask, factor).clamp(0, 1)
