"""Stage 1 of the mini: a VAE of TAESD's layout (diffusers AutoencoderTiny), f = 8, 4 latent channels.

TAESD's layout has no norms, so a narrow one keeps colour (GroupNorm(32) at 64 channels is instance norm). The latents
are pushed to mean 0 and standard deviation 1, and the decoder sees a little noise, so that the UNet has a smooth space.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from genprop_core.files import save_tensors

from .clips import FIRST_HELD_OUT_SEED, make_clip
from .precision import autocast
from .stage import EMA, Stage

PEAK_RATE = 1e-3
CROP, BATCH = 64, 16
LATENT_NOISE = 0.05
POOL = 256  # clips drawn before training; crops and mirror images are drawn from them


def new_vae() -> AutoencoderTiny:
    """An untrained VAE: orthogonal with gain 1.4, residual branches scaled by 0.1."""
    vae = AutoencoderTiny()
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.orthogonal_(module.weight, 1.4)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    for name, module in vae.named_modules():
        if name.endswith("conv.4"):  # the last convolution of a residual block
            with torch.no_grad():
                module.weight.mul_(0.1)
    return vae


def measure(vae, seeds) -> dict:
    """Round trip PSNR (mean over clips) and the latents' standard deviation per channel on clips of these seeds."""
    psnr, latents = [], []
    with torch.no_grad():
        for seed in seeds:
            frames = make_clip(seed).source.to(vae.device)
            z = vae.encode(frames * 2 - 1, return_dict=False)[0]
            out = (vae.decode(z, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
            psnr.append(-10 * torch.log10(F.mse_loss(out, frames)).item())
            latents.append(z)
    z = torch.cat(latents)
    return {
        "round_trip_psnr": sum(psnr) / len(psnr),
        "latent_std": [round(s, 4) for s in z.std(dim=(0, 2, 3)).tolist()],
        "latent_mean": [round(s, 4) for s in z.mean(dim=(0, 2, 3)).tolist()],
    }


@torch.no_grad()
def normalise(vae, seeds):
    """Scales every latent channel to standard deviation 1 on clips of these seeds, and the decoder's input back.

    The decoder's soft clamp 3 tanh(z/3) comes before its first convolution, so this is exact for small z only.
    """
    clips = (make_clip(seed).source.to(vae.device) for seed in seeds)
    z = torch.cat([vae.encode(clip * 2 - 1, return_dict=False)[0] for clip in clips])
    std = z.std(dim=(0, 2, 3))
    last, first = vae.encoder.layers[-1], vae.decoder.layers[0]
    last.weight.div_(std.view(-1, 1, 1, 1))
    last.bias.div_(std)
    first.weight.mul_(std.view(1, -1, 1, 1))


def train(folder, minutes, seed=0, steps=None, device="cpu", batch_size=BATCH):
    """Trains for `minutes` (or `steps`) in all, `batch_size` crops a step, and writes vae.safetensors into `folder`."""
    torch.manual_seed(seed)
    vae, device = new_vae().to(device, memory_format=torch.channels_last), torch.device(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=PEAK_RATE)
    ema = EMA(vae.parameters(), 0.995)
    stage = Stage(folder, "vae", minutes, {"vae": vae}, optimizer, ema, steps)
    print(f"drawing {POOL} clips", flush=True)
    pool = torch.cat([(make_clip(10_000 + k).source * 255).round().byte() for k in range(POOL)])
    saved = stage.elapsed
    while stage.progress < 1:
        g = torch.Generator().manual_seed(seed * 1_000_003 + stage.step)
        rows = torch.randint(0, len(pool), (batch_size,), generator=g)
        y, x = torch.randint(0, pool.shape[-1] - CROP + 1, (2, batch_size), generator=g).tolist()
        crops = torch.stack([pool[r, :, a : a + CROP, b : b + CROP] for r, a, b in zip(rows, y, x)])
        frames = crops.to(device).float() / 127.5 - 1
        if stage.step % 2:
            frames = frames.flip(-1)
        frames = frames.to(memory_format=torch.channels_last)
        rate = stage.learning_rate(PEAK_RATE)
        with autocast(device):
            z = vae.encode(frames, return_dict=False)[0].float()
            noise = LATENT_NOISE * torch.randn(z.shape, generator=g).to(device)
            out = vae.decode(z + noise, return_dict=False)[0].float()
        error = F.mse_loss(out, frames)
        spread = (z.std(dim=(0, 2, 3)) - 1).square().mean() + z.mean(dim=(0, 2, 3)).square().mean()
        loss = error + 0.02 * F.l1_loss(out, frames) + 0.01 * spread
        stage.descend(loss)
        if stage.step % 50 == 0:
            stage.log(loss=loss.item(), psnr=-10 * torch.log10(error / 4).item(), spread=spread.item(), lr=rate)
        if stage.elapsed - saved > 120:
            stage.save()
            saved = stage.elapsed
    stage.save()
    ema.copy_to()
    normalise(vae.eval(), range(20_000, 20_064))
    facts = measure(vae, range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 16))
    stage.log(**facts)
    save_tensors(stage.folder / "vae.safetensors", vae.state_dict(), {"stage": "vae"})
    return facts
