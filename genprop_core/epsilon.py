"""The GroupNorm epsilon in which diffusers' SVD differs from Stability's own code and from ComfyUI."""
import torch

SVD_EPSILON = 1e-5


def set_groupnorm_eps(unet, eps: float = SVD_EPSILON) -> int:
    """Sets the epsilon of every GroupNorm in the UNet's residual blocks; returns how many were changed.

    diffusers builds the residual blocks of SVD's cross-attention down blocks and of all up blocks, spatial and
    temporal, with 1e-6; Stability's code and ComfyUI have 1e-5 in every residual block. The norms in front of the
    transformers (`attentions.*.norm`) are 1e-6 in all three and stay. The VAE needs nothing: all three agree there.
    """
    changed = 0
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.GroupNorm) and ".resnets." in name and module.eps != eps:
            module.eps = eps
            changed += 1
    return changed
