"""The table of sizes: its numbers against adapters that exist, and arithmetic counted on real tensors."""
import json

import pytest
import torch
from tiny import SHAPE, tiny_condition, tiny_unet

from benchmarks import adapter_size
from genprop_core.adapters import GenPropAdapters
from genprop_core.checkpoint import Fingerprint, save_adapters


@pytest.fixture(scope="module")
def report():
    return adapter_size.measure(SHAPE, frames=4, height=64, width=64, steps=5)


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_parameters_and_file_are_those_of_real_adapters(num_blocks, report, tmp_path):
    row, unet = report["rows"][num_blocks - 1], tiny_unet()
    adapters = GenPropAdapters.from_unet(unet, num_blocks=num_blocks)
    save_adapters(tmp_path / "a.safetensors", adapters, Fingerprint.of_unet(unet), {})
    assert row["num_blocks"] == num_blocks and row["taps"] == len(adapters.config.tap_widths())
    assert row["trainable"] == sum(p.numel() for p in adapters.trainable())
    assert report["unet_parameters"] == sum(p.numel() for p in unet.parameters())
    header = (tmp_path / "a.safetensors").stat().st_size - row["file_bytes_fp16"]
    assert 0 < header < 200 * len(adapters.state_dict()) + 4000


def test_arithmetic_is_that_of_real_tensors(report):
    unet, condition = tiny_unet(), tiny_condition()
    adapters = GenPropAdapters.from_unet(unet)
    c, level = condition, torch.zeros(1)
    x = torch.cat([c.source, c.image_latents], dim=2)
    whole = adapter_size.flops(lambda: unet(x, level, c.clip, c.micro, return_dict=False))
    sce = adapter_size.flops(lambda: adapters.encode(c.source, c.keyframe, c.clip, c.micro, c.task))
    # attention on the CPU is one kernel that the counter does not know on every version, hence not exactly
    assert report["unet_flops"] == pytest.approx(whole, rel=0.1)
    row = report["rows"][1]
    assert row["sce_share_of_pass"] == pytest.approx(sce / whole, rel=0.1)
    assert row["static_share_of_run"] == pytest.approx(row["sce_share_of_pass"] / (2 * 5))


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(adapter_size, "SVD", SHAPE)
    small = ["--frames", "2", "--width", "64", "--height", "64", "--steps", "5"]
    assert adapter_size.main([*small, "--json", str(tmp_path / "a.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 1 + 3 and "SCE, of 5 steps" in lines[0]
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["video"] == {"frames": 2, "width": 64, "height": 64} and written["torch"]
    assert len(written["ratios"]) == 3 * 3
    assert written["ratios"]["sce_share_of_pass_2_blocks"] == written["rows"][1]["sce_share_of_pass"]
