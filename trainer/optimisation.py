"""What the loop of `trainer/train.py` optimises and how fast: the loss as a module, parameter groups, learning rate."""

import math

import torch

from genprop_core.adapters import GenPropAdapters
from genprop_core.conditioning import NOISE_AUGMENTATION, Condition, micro_conditions
from genprop_core.errors import GenPropError

from .step import StepSettings, loss_terms

WARMUP = 100  # steps, but at most a tenth of the run
MOST_SKIPPED = 50  # a scaler that starts too high skips some, too


class Step(torch.nn.Module):
    """The adapters with their loss as `forward`, so that Accelerate can wrap them. The frozen UNet stays outside."""

    def __init__(self, adapters: GenPropAdapters, unet, defaults):
        super().__init__()
        self.adapters, self.defaults = adapters, defaults
        self.__dict__["unet"] = unet  # not a submodule: neither trained, nor wrapped, nor saved

    def forward(self, taps, batch: dict, settings: StepSettings, selective: float) -> dict:
        micro = micro_conditions(
            self.defaults.fps, self.defaults.motion_bucket, NOISE_AUGMENTATION, len(batch["target"])
        )
        condition = Condition(
            image_latents=batch["image"],
            clip=batch["clip"],
            micro=micro.to(batch["target"].device),
            task=batch["task"],
            source=batch["source"],
            keyframe=batch["image"],
        )
        target, mask, random = batch["target"], batch["mask"], batch["random"]
        return loss_terms(self.unet, taps, self.adapters, condition, target, mask, random, settings, selective)


def parameter_groups(adapters: GenPropAdapters, args) -> list[dict]:
    """The SCE, copied from the base, at --lr; what starts from nothing at --new_layers_lr times that."""
    copied = [p for p in adapters.sce.parameters() if p.requires_grad]
    new = adapters.trainable()[len(copied) :]
    return [{"params": copied, "factor": 1.0}, {"params": new, "factor": args.new_layers_lr}]


def learning_rate(step: int, args, total: int) -> float:
    """Linear warm-up to --lr, then by --lr_scheduler to the end of the run. step counts from 0."""
    warmup = min(WARMUP, total // 10) if args.warmup_steps is None else args.warmup_steps
    if step < warmup:
        return args.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return (
        args.lr
        * {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[args.lr_scheduler]
    )


def check_goes_on(skipped: int, names: list[str]):
    """Raises GenPropError when the loss scaler skipped MOST_SKIPPED steps in a row: it would go on so, for nothing."""
    if skipped >= MOST_SKIPPED:
        raise GenPropError(
            f"In fp16 the gradients were too large for {skipped} steps in a row, last with {', '.join(names)}: nothing "
            "is learned any more. Train with --mixed_precision bf16, or no."
        )


def check_finite(what: str, value, names: list[str], step: int):
    """Raises GenPropError when the loss or the gradient norm of a step is not finite. names: of its clips."""
    if not math.isfinite(value := float(value)):
        raise GenPropError(
            f"The {what} became {value} at step {step + 1} with the clip{'s' * (len(names) > 1)} "
            f"{', '.join(names)}. Nothing of it was saved. Look at the clip; a lower --lr or "
            "--mixed_precision no may help."
        )
