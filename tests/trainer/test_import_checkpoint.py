"""Checkpoints of the earlier implementation become adapter files, as far as shapes allow."""

import copy

import pytest
import torch
from tiny import tiny_image_encoder, tiny_unet

from genprop_core.base import Base, Defaults
from genprop_core.checkpoint import load_adapters
from genprop_core.errors import GenPropError
from genprop_core.import_checkpoint import import_checkpoint


@pytest.fixture(scope="module")
def base():
    return Base("tiny", tiny_unet(), None, tiny_image_encoder(), Defaults())


def old_checkpoint(unet, seed=0, blocks=2) -> dict:
    """In the earlier implementation's layout: a copied SCE, a 1x1x1 convolution with a norm per block, an MLP."""
    torch.manual_seed(seed)
    sce = torch.nn.Module()
    sce.conv_in, sce.time_embedding, sce.add_embedding = (
        copy.deepcopy(getattr(unet, n)) for n in ("conv_in", "time_embedding", "add_embedding")
    )
    sce.blocks = torch.nn.ModuleList(copy.deepcopy(b) for b in unet.down_blocks[:blocks])
    for p in sce.parameters():
        p.data += 0.1 * torch.randn_like(p)
    injections = []
    for width in unet.config.block_out_channels[:blocks]:
        layer = torch.nn.Module()
        layer.norm, layer.conv = torch.nn.GroupNorm(8, width), torch.nn.Conv3d(width, width, 1)
        injections.append(layer.state_dict())
    mpd = torch.nn.Sequential(torch.nn.Conv3d(64, 16, 1), torch.nn.GELU(), torch.nn.Conv3d(16, 1, 1))
    return {"epoch": 3, "sce_state_dict": sce.state_dict(), "injections_state_dict": injections,
            "mpd_state_dict": mpd.state_dict(), "optimizer_state_dict": {}}  # fmt: skip


def test_weights_arrive_and_the_rest_is_reported(base, tmp_path):
    old = old_checkpoint(base.unet)
    torch.save(old, tmp_path / "old.pt")
    report = import_checkpoint(tmp_path / "old.pt", tmp_path / "new.safetensors", base)
    file = load_adapters(tmp_path / "new.safetensors")
    state, config = file.adapters.state_dict(), file.adapters.config
    assert config.taps == "blocks" and config.num_blocks == 2 and file.fingerprint == base.fingerprint()
    for key, value in old["sce_state_dict"].items():
        torch.testing.assert_close(state["sce." + key.replace("blocks", "down_blocks", 1) if key.startswith("blocks")
                                         else "sce." + key], value.half().float())  # fmt: skip
    active = [i for i, on in enumerate(config.active_taps()) if on]
    for layer, tap in zip(old["injections_state_dict"], active, strict=True):
        torch.testing.assert_close(state[f"injections.{tap}.conv.weight"], layer["conv.weight"][..., 0].half().float())
        torch.testing.assert_close(state[f"injections.{tap}.norm.weight"], layer["norm.weight"].half().float())
    assert len(report.carried) == len(old["sce_state_dict"]) + 8
    assert set(report.left) == {f"mpd.{k}" for k in old["mpd_state_dict"]}
    assert report.lines()[0].startswith(f"{len(report.carried)} tensors carried, 4 left")


def test_other_shapes_are_left_and_dead_injections_told(base, tmp_path):
    old = old_checkpoint(base.unet)
    old["sce_state_dict"]["conv_in.weight"] = torch.zeros(32, 4, 3, 3)
    old["injections_state_dict"][0]["conv.weight"].zero_()
    torch.save(old, tmp_path / "old.pt")
    report = import_checkpoint(tmp_path / "old.pt", tmp_path / "new.safetensors", base)
    assert report.left["sce.conv_in.weight"] == "shape [32, 4, 3, 3], this base needs [32, 8, 3, 3]"
    assert any("1 of 2 injection convolutions are all zero" in line for line in report.lines())


class Payload:
    def __reduce__(self):
        return print, ("this must never run",)


def test_bad_input(base, tmp_path, capsys):
    out = tmp_path / "new.safetensors"
    with pytest.raises(GenPropError, match=r"Expected a checkpoint \(\.pt\) at .*none\. Check the path"):
        import_checkpoint(tmp_path / "none.pt", out, base)
    torch.save({"sce_state_dict": {}}, tmp_path / "a.pt")
    with pytest.raises(
        GenPropError, match=r"lacks injections_state_dict, mpd_state_dict\. Only checkpoints of the earlier"
    ):
        import_checkpoint(tmp_path / "a.pt", out, base)
    torch.save(old_checkpoint(base.unet) | {"extra": Payload()}, tmp_path / "b.pt")
    with pytest.raises(GenPropError, match="which is not read for safety"):
        import_checkpoint(tmp_path / "b.pt", out, base)
    assert "must never run" not in capsys.readouterr().out
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(GenPropError, match="cannot be read as one"):
        import_checkpoint(tmp_path / "c.pt", out, base)
    assert not out.exists()


def test_command_line(base_file, tmp_path, capsys):
    from genprop_core import cli
    from genprop_core.base import load_base

    torch.save(old_checkpoint(load_base(base_file).unet), tmp_path / "old.pt")
    words = ["import-checkpoint", str(tmp_path / "old.pt"), "--base", str(base_file), "--out"]
    assert cli.main([*words, str(tmp_path / "new.safetensors")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("tensors carried, 4 left") and sum(line.startswith("left: mpd.") for line in said) == 4
    assert load_adapters(tmp_path / "new.safetensors").provenance["imported_from"] == "old.pt"
    assert cli.main(words[:-1]) == 0  # beside the old one, but never over another file
    assert load_adapters(tmp_path / "old.safetensors").provenance["imported_from"] == "old.pt"
    assert capsys.readouterr().out.splitlines()[-1] == f"written: {tmp_path / 'old.safetensors'}"
    assert cli.main(words[:-1]) == 2 and "Give another name with --out" in capsys.readouterr().err
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    words[1] = str(tmp_path / "bad.pt")
    assert cli.main([*words, str(tmp_path / "other.safetensors")]) == 2
    assert capsys.readouterr().err.startswith("error: Expected a checkpoint of tensors, but ")
    assert not (tmp_path / "other.safetensors").exists()
    words[1] = str(tmp_path / "old.pt")
    assert cli.main([*words, str(tmp_path / "old.pt" / "below.safetensors")]) == 2  # a file is in the way
    assert "cannot be written" in (said := capsys.readouterr().err) and len(said.splitlines()) == 1
