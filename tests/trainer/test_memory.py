"""The memory table agrees with what a real step keeps."""

import copy
import re

import pytest
import torch
from tiny import tiny_condition, tiny_unet

from genprop_core.adapters import GenPropAdapters
from genprop_core.attach import attach
from genprop_core.losses import LossSettings
from trainer import arguments
from trainer.memory import activation_bytes, saved_bytes
from trainer.step import StepSettings, draw, loss_terms, stack


def test_counted_without_running_is_what_a_step_keeps():
    unet = tiny_unet()
    adapters = GenPropAdapters.from_unet(unet)
    condition = tiny_condition(frames=8)
    target = torch.zeros(condition.source.shape)
    random = stack([draw(0, target.shape[1:], StepSettings())])
    kept, counted = [], []
    for loss in (LossSettings(), LossSettings(beta_grad=0.0)):  # the latter has no second pass of the SCE
        with attach(unet, 2) as taps, saved_bytes(unet, adapters) as counter:
            loss_terms(unet, taps, adapters, condition, target, torch.ones(1, 8, 1, 8, 8), random, StepSettings(loss))
        given = copy.deepcopy(unet), copy.deepcopy(adapters), (64, 64), 8, 1, torch.float32
        kept.append(counter.bytes)
        counted.append(activation_bytes(*given, False, loss))
        assert activation_bytes(*given, True, loss) < 0.7 * counted[-1]
    assert counted == pytest.approx(kept, rel=0.1) and kept[1] < 0.8 * kept[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_counted_as_a_step_keeps_it(dtype, monkeypatch):
    """Adapters and latents in fp32, a half UNet, and autocast; a CPU's leaves norms in half, a GPU's does not."""
    unet = tiny_unet()
    adapters, frozen = GenPropAdapters.from_unet(unet), unet.to(dtype)
    condition = tiny_condition(frames=8)
    target = torch.zeros(condition.source.shape)
    random = stack([draw(0, target.shape[1:], StepSettings())])

    def as_on_a_gpu(norm):
        def full(x, *args, **kwargs):
            args = [a.float() if isinstance(a, torch.Tensor) else a for a in args]
            with torch.autocast("cpu", enabled=False):
                return norm(x.float(), *args, **kwargs)

        return full

    with monkeypatch.context() as patch:
        for name in ("group_norm", "layer_norm"):
            patch.setattr(torch.nn.functional, name, as_on_a_gpu(getattr(torch.nn.functional, name)))
        with attach(frozen, 2) as taps, saved_bytes(frozen, adapters) as counter, torch.autocast("cpu", dtype):
            loss_terms(frozen, taps, adapters, condition, target, torch.ones(1, 8, 1, 8, 8), random, StepSettings())
    given = copy.deepcopy(frozen), copy.deepcopy(adapters), (64, 64), 8, 1
    assert activation_bytes(*given, dtype, False, LossSettings()) == pytest.approx(counter.bytes, rel=0.02)
    assert activation_bytes(*given, dtype, True, LossSettings()) < 0.7 * counter.bytes


def test_dry_run_prints_the_table_and_writes_nothing(base_file, capsys, tmp_path):
    from trainer.train import run

    words = ["--dry_run", "--base", base_file, "--resolution", "64", "--num_frames", "4", "--tracker", "none"]
    run(arguments.parse([*words, "--output_dir", tmp_path / "out"]))
    said = capsys.readouterr().out
    rows = dict(re.findall(r"\| (.+?) \| ([\d.]+) \|", said))
    run(arguments.parse([*words, "--beta_grad", "0"]))
    less = dict(re.findall(r"\| (.+?) \| ([\d.]+) \|", capsys.readouterr().out))
    assert float(less["activations"]) < 0.9 * float(rows["activations"])
    assert {"UNet, frozen", "gradients", "AdamW moments", "activations", "sum with these settings"} <= rows.keys()
    assert re.search(r"4 frames of 64x64, batch 1, no: \d+\.\d M of \d+\.\d M parameters", said)
    assert not (tmp_path / "out").exists()


def test_dry_run_of_svd_takes_adapters_that_fit(capsys, tmp_path, monkeypatch):
    from genprop_core.assets import MINI_ADAPTERS
    from genprop_core.base import Base, Defaults
    from genprop_core.checkpoint import Fingerprint, save_adapters
    from genprop_core.errors import GenPropError
    from trainer import train

    unet = tiny_unet()
    adapters = GenPropAdapters.from_unet(unet, num_blocks=1)
    save_adapters(tmp_path / "a.safetensors", adapters, Fingerprint.of_unet(unet), {})
    small = Base("svd", unet.to("meta"), None, None, Defaults())
    monkeypatch.setattr(train, "svd_without_weights", lambda: small)
    words = ["--dry_run", "--base", "svd", "--resolution", "64", "--num_frames", "4", "--tracker", "none"]
    train.run(arguments.parse([*words, "--init_adapters", tmp_path / "a.safetensors"]))
    trained = sum(p.numel() for p in adapters.trainable()) / 1e6
    assert f"{trained:.1f} M of" in capsys.readouterr().out
    with pytest.raises(GenPropError, match="were made for a base with widths"):
        train.run(arguments.parse([*words, "--init_adapters", MINI_ADAPTERS]))


def test_dry_run_counts_svd_without_a_file(capsys, tmp_path):
    """The docs' command; Stable Video Diffusion's own sizes."""
    from trainer.train import run

    words = ["--dry_run", "--base", "svd", "--resolution", "512x512", "--num_frames", "6", "--mixed_precision", "fp16"]
    run(arguments.parse([*words, "--tracker", "none", "--output_dir", tmp_path / "out"]))
    said = capsys.readouterr().out
    assert "100.7 M of 1631.3 M parameters" in said
    rows = {name: float(size) for name, size in re.findall(r"\| (.+?) \| ([\d.]+) \|", said)}
    assert rows["UNet, frozen"] == pytest.approx(2.84, abs=0.01) and 20 < rows["activations"] < 24
    assert rows["activations, --gradient_checkpointing"] < 0.1 * rows["activations"]
