"""What CLIP is shown: the numbers of diffusers' SVD pipeline, without importing it."""

import subprocess
import sys

import pytest
import torch

from genprop_core.conditioning import CLIP_MEAN, CLIP_STD, clip_pixels


@pytest.mark.parametrize("height,width", [(576, 1024), (128, 128), (240, 433), (700, 96), (224, 225)])
def test_pixels_are_those_of_diffusers(height, width):
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height)) * 2 - 1
    before = image.clone()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    expected = ((_resize_with_antialiasing(image, (224, 224)) + 1) / 2 - mean) / std
    torch.testing.assert_close(clip_pixels(image), expected, atol=1e-5, rtol=1e-5)
    assert clip_pixels(image.half()).dtype == torch.float32 and image.equal(before)


def test_diffusers_pipelines_are_not_imported():
    """They say things about torchvision that nobody who propagates needs to know."""
    code = (
        "import sys, torch; from genprop_core.base import load_base; from genprop_core import conditioning as cond; "
        "cond.clip_embedding(load_base('mini').image_encoder, torch.zeros(1, 3, 64, 64)); "
        "print([m for m in sys.modules if 'pipelines.stable_video_diffusion' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and "torchvision" not in done.stderr
