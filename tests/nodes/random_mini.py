"""A stand-in for the mini's files: its shape with random weights, adapters that change something, a sample clip."""
import torch
from safetensors.torch import save_file


def random_adapters(unet, seed=2, **settings):
    """Adapters with every zero-initialised and neutral parameter moved, so that all of them count."""
    from genprop_core.adapters import GenPropAdapters

    adapters = GenPropAdapters.from_unet(unet, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapters.named_parameters():
            if name.startswith(("injections", "mpd")) or "task_embedding" in name or "fuse" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return adapters


def write_mini(folder, **settings):
    """base.safetensors and adapters.safetensors in `folder`; settings are AdapterConfig's."""
    from genprop_core.checkpoint import Fingerprint, save_adapters
    from genprop_core.mini import save_mini
    from trainer.mini.shape import new_image_encoder, new_unet
    from trainer.mini.vae import new_vae

    unet = new_unet(0)
    torch.manual_seed(1)
    parts = {"unet": unet, "vae": new_vae(), "image_encoder": new_image_encoder(0)}
    save_mini(folder / "base.safetensors", parts, {"made": "for a test"})
    adapters = random_adapters(unet, **settings)
    save_adapters(folder / "adapters.safetensors", adapters, Fingerprint.of_unet(unet), {"made": "for a test"})


def write_sample(folder):
    """source.mp4, truth.mp4, mask.mp4 and keyframe.png, from the mini's own generator."""
    from genprop_core.video_io import write_image, write_video
    from trainer.mini.clips import make_clip

    folder.mkdir(parents=True, exist_ok=True)
    clip = make_clip(1234567)
    source, target = ((c * 255).round().to(torch.uint8).movedim(1, -1) for c in (clip.source, clip.target))
    mask = (clip.mask * 255).to(torch.uint8).expand(-1, 3, -1, -1).movedim(1, -1)
    for name, frames in (("source", source), ("truth", target), ("mask", mask)):
        write_video(folder / f"{name}.mp4", frames, 8)
    write_image(folder / "keyframe.png", target[0])


def inputs(frames=8, size=128, seed=5):
    """source [T,3,H,W] and keyframe [3,H,W] in [0,1] with a moving pattern."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.rand(3, size // 8, (size + 8 * frames) // 8, generator=generator)
    wide = torch.nn.functional.interpolate(wide[None], scale_factor=8, mode="bilinear")[0]
    source = torch.stack([wide[:, :, 4 * t : 4 * t + size] for t in range(frames)])
    keyframe = source[0].clone()
    keyframe[:, 32:64, 32:64] = 0.5
    return source, keyframe


def save_inputs(path, **tensors):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def write_files(folder):
    """The mini's two files and the sample clip: the trained ones where the repository has them, else random ones."""
    import shutil

    from genprop_core import assets

    if assets.MINI_BASE.is_file() and assets.MINI_ADAPTERS.is_file():
        for path in (assets.MINI_BASE, assets.MINI_ADAPTERS):
            shutil.copy(path, folder / path.name)
    else:
        write_mini(folder)
    if assets.SAMPLE.is_dir():
        shutil.copytree(assets.SAMPLE, folder / "sample")
    else:
        write_sample(folder / "sample")


def base_unet(folder):
    """The UNet of the mini in `folder`."""
    from genprop_core.single_file import load_single_file

    return load_single_file(folder / "base.safetensors").unet
