"""The decoder trained again on what the mini draws: the encoder stays, and everything made for it still fits."""

import json
import re
import shutil

import pytest
import torch
from noise_pairs import noise_batch, work_folder
from pretend_device import pretend_device

from genprop_core.assets import MINI_ADAPTERS
from genprop_core.attach import attach
from genprop_core.base import MINI_SAMPLED, load_base
from genprop_core.checkpoint import load_adapters
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, open_tensors, save_tensors
from genprop_core.sampler import SamplerSettings, sample
from trainer.mini import decoder, export
from trainer.mini.__main__ import main
from trainer.mini.base import CHECK, make_condition
from trainer.mini.cache import Pairs, digest_of_vae, load_vae
from trainer.mini.curves import FOLDER

FEW = 2  # pairs that are drawn here


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(decoder, "_check", lambda vae, pairs, device: {"check_psnr": 1.0})


def _train(work, steps, **other):
    return decoder.train(work, 0, start=MINI_ADAPTERS, steps=steps, batch_size=1, pool=FEW, **other)


def test_what_is_drawn_is_what_the_sampler_makes():
    base, adapters = load_base("mini"), load_adapters(MINI_ADAPTERS).adapters
    batch = noise_batch(2)
    condition = make_condition(batch)
    noise = torch.randn(batch["target"].shape, generator=torch.Generator().manual_seed(1))
    expected, _ = sample(base.unet, adapters, condition, noise, SamplerSettings(**MINI_SAMPLED))
    with attach(base.unet, adapters.config.num_blocks) as taps, torch.no_grad():
        made = decoder._drawn(base.unet, taps, adapters, condition, noise)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


def test_frames_come_with_what_they_should_be(tmp_path):
    pairs = Pairs(work_folder(tmp_path))
    drawn = decoder.Drawn(tmp_path, MINI_ADAPTERS, pairs, 3, 0, torch.device("cpu"))
    assert drawn.latents.shape == (3, 8, 4, 16, 16) and not drawn.latents.requires_grad
    assert drawn.rows.min() == CHECK, "the first pairs are for the curve"
    drawn.latents = torch.arange(24.0).view(3, 8, 1, 1, 1)
    for seed in range(5):
        latents, truth = drawn.batch(1, torch.Generator().manual_seed(seed))
        n, t = divmod(int(latents), 8)
        frame = torch.tensor([7 - t if drawn.backwards[n] else t])
        row, forwards = drawn.rows[n : n + 1], torch.tensor([False])
        assert truth.equal(pairs.pictures(row, forwards, frame)), "played backwards as it was drawn"
        latents, truth = decoder.from_truth(pairs, 1, torch.Generator().manual_seed(seed), "cpu")
        known = {side: pairs.tensors[side].float() for side in ("source", "target")}
        side, place = next((s, (v == latents[0]).all(-1).all(-1).all(-1).nonzero()) for s, v in known.items()
                           if (v == latents[0]).flatten(2).all(-1).any())  # fmt: skip
        row, frame = place[0]
        assert row >= CHECK and truth.equal(pairs.pictures(row[None], forwards, frame[None], side))


def test_it_learns_goes_on_and_leaves_the_encoder_alone(tmp_path, unchecked, capsys):
    work = work_folder(tmp_path / "work")
    assert main(["decoder", "--work", str(work)]) == 2
    assert re.search(r"Expected adapters to draw with in .*adapters\.safetensors", capsys.readouterr().err)
    before = load_vae(work)
    _train(work, 2)
    _train(work, 4)
    rows = [json.loads(line) for line in (work / "decoder.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4] and rows[-1]["check_psnr"] == 1.0
    after = export.latest_vae(work)
    own = before.state_dict()
    moved = {k for k, v in after.state_dict().items() if not own[k].equal(v)}
    assert {k.split(".")[0] for k in moved} == {"decoder"} and len(moved) > 30
    assert main(["pack", "--work", str(work)]) == 0
    packed = load_base(str(work / "mini.safetensors"))
    assert all(packed.vae.state_dict()[k].equal(after.state_dict()[k].half().float()) for k in own)
    Pairs(work)  # the cache fits as before

    shutil.copyfile(MINI_ADAPTERS, work / "adapters.safetensors")
    shutil.copytree(FOLDER, curves := tmp_path / "curves")
    export.export(work, tmp_path / "assets", curves)
    with open_tensors(tmp_path / "assets" / "mini" / "base.safetensors") as file:
        assert json.loads(file.metadata()["provenance"])["stages"]["decoder"] == rows[-1]
    new = {p.name for p in curves.glob("*.jsonl")} - {p.name for p in FOLDER.glob("*.jsonl")}
    assert len(new) == 1 and re.match(r"vae_continued(_\d+)?\.jsonl", new.pop())


def test_a_decoder_of_another_vae_is_refused(tmp_path, unchecked):
    work = work_folder(tmp_path)
    _train(work, 1)
    vae = load_tensors(work / "vae.safetensors")[0]
    name = next(iter(vae))
    save_tensors(work / "vae.safetensors", vae | {name: vae[name] + 0.01}, {})
    with pytest.raises(GenPropError, match=r"Expected .*decoder\.safetensors to go on from .*Remove the files decoder"):
        export.latest_vae(work)
    (work / "decoder.safetensors").unlink()
    for path in (work / "cache").glob("[0-9]*.safetensors"):
        save_tensors(path, load_tensors(path)[0], {"vae": digest_of_vae(work)})
    with pytest.raises(GenPropError, match=r"began from \w+\. Remove the files decoder\.\*"):
        _train(work, 2)


def test_it_trains_on_another_device_as_on_the_cpu(tmp_path, unchecked, monkeypatch):
    monkeypatch.setattr("trainer.mini.precision.bfloat16_pays", lambda: False)
    _train(work_folder(tmp_path / "cpu"), 2)
    with pretend_device() as device:
        _train(work_folder(tmp_path / "there"), 1, device=device)
        _train(tmp_path / "there", 2, device=device)
    expected, made = (load_tensors(tmp_path / place / "decoder.safetensors")[0] for place in ("cpu", "there"))
    for key, value in expected.items():
        torch.testing.assert_close(made[key], value, atol=2e-3, rtol=1e-2)


def test_the_check_is_of_the_pairs_kept_for_it(tmp_path, monkeypatch):
    """Pictures that are what the decoder makes of the latents, but for one grey level of 255; the others are black."""
    monkeypatch.setattr(decoder, "CHECK", 2)
    work = work_folder(tmp_path)
    pairs, vae = Pairs(work), load_vae(work)
    path = work / "cache" / "pictures-000000.safetensors"
    pictures = torch.zeros_like(load_tensors(path)[0]["target"])
    for row in range(2):
        with torch.no_grad():
            made = decoder.decoded(vae, pairs.tensors["target"][row].float())
        pictures[row] = (255 * (made.clamp(0, 1) + 1 / 255).clamp(0, 1)).round().byte()
    save_tensors(path, {"target": pictures}, {})
    assert 45 < decoder._check(vae, pairs, torch.device("cpu"))["check_psnr"] < 50
