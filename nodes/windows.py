"""ComfyUI's models as genprop_core's `WindowModel`: one window of a long clip, encoded, sampled and decoded."""
from dataclasses import dataclass

import comfy.model_management as mm
import latent_preview
import torch

from ..genprop_core.config import REMOVE
from ..genprop_core.errors import GenPropError
from . import encoding
from .memory import check_model
from .passes import Sampling, sample_pass
from .sockets import Adapters, Told


@dataclass
class ComfyWindows:
    """What GenProp Propagate was connected to. default_frames: frames of a window; preview: of the latest step.

    Cancel is noticed after every sampling step, by the progress bar that `progress` moves, and between the phases.
    """

    model: object
    clip_vision: object
    vae: object
    adapters: Adapters
    default_frames: int
    told: Told
    task: str
    sampling: Sampling
    seed: int
    preview: object = None

    def __post_init__(self):
        check_model(self.model, self.adapters)
        self.previewer = latent_preview.get_previewer(self.model.load_device, self.model.model.latent_format)

    @property
    def removes(self) -> bool:
        return self.task == REMOVE

    @property
    def size_multiple(self) -> int:
        return self.adapters.size_multiple

    def run(self, source, keyframe, *, noise, region=None, guided=True, progress=None):
        """See `WindowModel.run`."""
        mm.throw_exception_if_processing_interrupted()
        plan = [tuple(range(len(source)))]
        condition = encoding.encode(self.adapters, self.clip_vision, self.vae, source, keyframe, plan, self.told,
                                    self.task, self.seed, region)  # fmt: skip
        mm.throw_exception_if_processing_interrupted()

        def callback(step, x0, x, steps):
            self.preview = self.previewer and self.previewer.decode_latent_to_preview_image("JPEG", x0)
            if progress is not None:
                progress(step + 1, steps)

        sampling = self.sampling if guided else self.sampling.unguided()
        latents, mask = sample_pass(self.model, condition, condition.segments[0], sampling, self.seed, noise[0],
                                    callback)  # fmt: skip
        mm.throw_exception_if_processing_interrupted()
        return self.decoded(latents, source.shape), mask

    def decoded(self, latents, shape) -> torch.Tensor:
        """Latents [T,4,h,w] -> [T,3,H,W] in [0,1] on the CPU. Raises GenPropError for a VAE that is not SVD's."""
        made = self.vae.decode(latents).movedim(-1, 1).float().cpu().clamp(0, 1)
        if made.shape != shape:
            raise GenPropError(f"Expected frames of shape {tuple(shape)} from the VAE, got {tuple(made.shape)}. "
                               "Connect the VAE of the SVD checkpoint.")  # fmt: skip
        return made
