"""EDM preconditioning and noise levels, as Stable Video Diffusion uses them (sigma_data = 1, v-prediction).

Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and eq. 5; SVD appendix D. Training and sampling both call this.
"""

import math

import torch

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7.0


def scalings(sigma: torch.Tensor):
    """c_skip, c_out, c_in and c_noise (the UNet's timestep) for noise levels `sigma` > 0, each of sigma's shape."""
    variance = sigma**2 + 1
    return 1 / variance, -sigma / variance.sqrt(), 1 / variance.sqrt(), 0.25 * sigma.log()


def expand(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[B] -> [B,1,1,...] with as many dimensions as `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def denoise(network, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The denoised latents D(x; sigma) [B,...]; `network(c_in * x, c_noise)` is the UNet, sigma is [B].

    The sum is taken in x's dtype, so a network in half precision does not round the latents.
    """
    c_skip, c_out, c_in, c_noise = (expand(c, x) if i < 3 else c for i, c in enumerate(scalings(sigma)))
    return c_skip * x + c_out * network(c_in * x, c_noise).to(x.dtype)


def karras_sigmas(steps: int, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, rho=RHO) -> torch.Tensor:
    """float32 [steps + 1]: sigma_max down to sigma_min, then 0 (eq. 5)."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)]).float()


def initial_noise_scale(sigma_max=SIGMA_MAX) -> float:
    """What unit noise is multiplied by to start sampling: sqrt(sigma_max^2 + 1), as diffusers and ComfyUI do."""
    return (sigma_max**2 + 1) ** 0.5


def training_sigmas(count: int, generator=None, mean=0.7, std=1.6) -> torch.Tensor:
    """float32 [count] with ln sigma ~ N(mean, std), on the generator's device."""
    device = generator.device if generator is not None else None
    return (mean + std * torch.randn(count, generator=generator, device=device)).exp()


def loss_weight(sigma: torch.Tensor) -> torch.Tensor:
    """(sigma^2 + 1) / sigma^2: with it the squared error of D equals that of the raw network output."""
    return (sigma**2 + 1) / sigma**2


def euler_step(x: torch.Tensor, denoised: torch.Tensor, sigma: float, next_sigma: float) -> torch.Tensor:
    """One Euler step of the probability flow ODE from sigma to next_sigma."""
    return x + (x - denoised) / sigma * (next_sigma - sigma)


def multistep_step(x, denoised, sigma: float, next_sigma: float, earlier=None, earlier_sigma: float | None = None):
    """One step of DPM-Solver++(2M) from sigma to next_sigma, for x = x0 + sigma * noise.

    earlier, earlier_sigma: the denoised latents of the step before. Without them, and down to zero noise, this is the
    Euler step. Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 2; half the log signal-to-noise ratio is -ln sigma.
    """
    if earlier is not None and next_sigma > 0:
        ratio = math.log(sigma / next_sigma) / math.log(earlier_sigma / sigma)
        denoised = denoised + 0.5 * ratio * (denoised - earlier)
    return euler_step(x, denoised, sigma, next_sigma)


def linear_guidance(min_scale: float, max_scale: float, num_frames: int) -> torch.Tensor:
    """[1,T,1,1,1]: guidance growing linearly over the frames, as SVD is sampled."""
    return torch.linspace(min_scale, max_scale, num_frames).reshape(1, -1, 1, 1, 1)
