"""The base trained by what it draws: as the sampler does it, and compared with the right frames."""

import copy
import shutil
from functools import partial

import pytest
import torch
from noise_pairs import noise_batch, work_folder
from pretend_device import pretend_device

from genprop_core.assets import MINI_ADAPTERS
from genprop_core.base import MINI_SAMPLED, load_base
from genprop_core.conditioning import NOISE_AUGMENTATION, SCALING, augment_keyframe, clip_embedding
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, save_tensors
from genprop_core.sampler import SamplerSettings, sample
from genprop_core.unet import denoise
from trainer.encoder import weights_digest
from trainer.mini import adapters, base, cache, precision, vae
from trainer.mini.clips import make_clip
from trainer.mini.drawing import LATENTS, LEVELS, LITTLE, PIXELS, USUAL, drawn_loss, half_way, pixel_loss
from trainer.mini.export import unpack
from trainer.mini.shape import new_image_encoder


@pytest.fixture(scope="module")
def mini():
    return load_base("mini")


def test_half_way_is_where_the_sampler_is(mini):
    batch = noise_batch()
    condition = base.make_condition(batch)
    noise = torch.randn(batch["target"].shape, generator=torch.Generator().manual_seed(1))
    expected, _ = sample(mini.unet, None, condition, noise, SamplerSettings(**MINI_SAMPLED))
    before = half_way(mini.unet, condition, noise, len(LEVELS) - 1)
    with torch.no_grad():
        made = denoise(mini.unet, before, torch.tensor(LEVELS[-1:]), condition)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    assert half_way(mini.unet, condition, noise, 0).std() > LEVELS[0] / 2 and not before.requires_grad


def test_the_frame_compared_is_the_one_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 2)
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: False)
    unpack(tmp_path)
    cache.build(tmp_path, 4)
    clip, pairs, own = make_clip(3), cache.Pairs(tmp_path), cache.load_vae(tmp_path)
    rows, at = torch.tensor([3, 3]), torch.tensor([2, 2])
    frames = pairs.pictures(rows, torch.tensor([False, True]), at, "source")
    assert len(pairs) == 4 and frames.shape == (2, 3, 128, 128) and frames.dtype == torch.float32
    for frame, there in zip(frames, (clip.source[2], clip.source[5])):
        assert (frame - there).abs().max() <= 0.5 / 255 + 1e-6
    assert (pairs.pictures(rows[:1], torch.tensor([False]), at[:1])[0] - clip.target[2]).abs().max() <= 0.5 / 255 + 1e-6
    encoder, ends = new_image_encoder(), torch.stack([clip.source[0], clip.source[-1]]) * 2 - 1
    batch = pairs.batch(rows, torch.tensor([False, True]), "source")
    torch.testing.assert_close(batch["clip"], clip_embedding(encoder, ends), atol=1e-2, rtol=1e-2)
    noisy = augment_keyframe(ends, NOISE_AUGMENTATION, 3)
    for shown, frame, plain in zip(batch["image"] * SCALING, noisy, batch["source"][:, 0]):
        exact = own.encode(frame[None]).latents[0]
        assert (shown - exact).abs().mean() < 0.3 * (shown - plain).abs().mean(), "as SVD has it, and of the right end"
    (tmp_path / "cache" / f"{cache.PICTURES}000002.safetensors").unlink()
    with pytest.raises(GenPropError, match=r"Expected the pictures .*000002.*Remove .*trainer\.mini cache"):
        pairs.pictures(rows, torch.tensor([False, True]), at)


def test_latents_of_another_vae_are_refused(tmp_path, monkeypatch):
    """The VAE's stage went on: its latents are others now, and what is trained on the old ones would not fit."""
    monkeypatch.setattr(cache, "SHARD", 1)
    unpack(tmp_path)
    cache.build(tmp_path, 1)
    tensors = load_tensors(tmp_path / "vae.safetensors")[0]
    for part in ("decoder", "encoder"):
        name = next(k for k in tensors if k.startswith(part))
        save_tensors(tmp_path / "vae.safetensors", tensors | {name: tensors[name] + 0.01}, {})
        if part == "decoder":
            assert len(cache.Pairs(tmp_path)) == 1, "what latents mean is the encoder's"
    wanted = r"latents of the VAE .* has those of another .*Remove .*cache, with the files .* long\.\* and decoder\.\*"
    for use in (cache.Pairs, lambda folder: cache.build(folder, 2)):
        with pytest.raises(GenPropError, match=wanted):
            use(tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 2, "a shard and its pictures"
    save_tensors(tmp_path / "vae.safetensors", tensors, {})
    shard = tmp_path / "cache" / "000000.safetensors"  # as an earlier version wrote it
    save_tensors(shard, load_tensors(shard)[0], {"vae": weights_digest(cache.load_vae(tmp_path))})
    cache.build(tmp_path, 2)
    assert len(cache.Pairs(tmp_path)) == 2


def test_clips_drawn_by_other_processes_are_encoded_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 1)
    for name, workers in (("alone", 0), ("together", 2)):
        unpack(tmp_path / name)
        cache.build(tmp_path / name, 2, workers=workers)
    alone, together = (sorted((tmp_path / name / "cache").iterdir()) for name in ("alone", "together"))
    assert [p.name for p in alone] == [p.name for p in together] and len(alone) == 4
    for a, b in zip(alone, together):
        mine, other = load_tensors(a)[0], load_tensors(b)[0]
        assert all(v.equal(other[k]) for k, v in mine.items())
    kept = alone[0].stat().st_mtime_ns
    cache.build(tmp_path / "alone", 3)
    assert alone[0].stat().st_mtime_ns == kept and len(cache.Pairs(tmp_path / "alone")) == 3


@pytest.mark.parametrize("seed", [0, 3])
def test_what_is_drawn_as_it_should_be_costs_nothing_in_pixels(mini, seed):
    batch = noise_batch(2)
    condition, at = base.make_condition(batch), torch.tensor([1, 6])

    def loss(truth, clean):
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return drawn_loss(mini.unet, mini.vae, clean, condition, truth, at, g)

    g = torch.Generator().manual_seed(seed)
    reached = int(torch.randint(len(LEVELS), (), generator=g))
    x = half_way(mini.unet, condition, torch.randn(batch["target"].shape, generator=g), reached)
    with torch.no_grad():
        made = denoise(mini.unet, x, torch.full((2,), LEVELS[reached]), condition)
        truth = mini.vae.decode(made[[0, 1], at], return_dict=False)[0] / 2 + 0.5
    total, pixels = loss(truth, made)
    assert pixels < 1e-8 and total < 1e-5
    total, pixels = loss(truth + 0.1, made + 1)
    expected = PIXELS * pixel_loss(torch.tensor(0.01)) + LATENTS
    assert abs(pixels - 0.01) < 1e-5 and abs(total - expected) < 1e-2


def test_in_half_precision_what_was_drawn_before_leaves_every_weight_its_gradient(mini):
    """Autocast keeps the weights that it has cast. Those cast for the levels before have no gradient."""
    unet, batch = copy.deepcopy(mini.unet).requires_grad_(), noise_batch()
    condition, truth, trained = base.make_condition(batch), torch.rand(1, 3, 128, 128), []
    for reached, seed in ((0, 0), (1, 1)):
        assert int(torch.randint(len(LEVELS), (), generator=torch.Generator().manual_seed(seed))) == reached
        unet.zero_grad()
        g = torch.Generator().manual_seed(seed)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = drawn_loss(unet, mini.vae, batch["target"], condition, truth, torch.tensor([3]), g)
        loss.backward()
        trained.append({n for n, p in unet.named_parameters() if p.grad is not None and p.grad.any()})
    assert trained[0] == trained[1] and len(trained[0]) > 100


def test_a_decibel_counts_in_easy_pictures_too():
    """The better a picture is, the more what is left of its error weighs; of a bad one, half of that at least."""
    errors = torch.tensor([0.0, USUAL, USUAL / 10, USUAL * 10], dtype=torch.float64, requires_grad=True)
    loss = pixel_loss(errors)
    assert loss[0] == 0
    loss.sum().backward()
    slopes = errors.grad.tolist()
    assert slopes[0] == pytest.approx((1 + (USUAL + LITTLE) / LITTLE) / 2) and slopes[1] == pytest.approx(1)
    assert slopes[0] > slopes[2] > slopes[1] > slopes[3] > 0.5


def _work(folder):
    """A work folder with pairs; what to start the base from."""
    start = work_folder(folder) / "start.safetensors"
    (folder / "base.safetensors").rename(start)
    return start


def test_going_on_leaves_the_first_layer_to_the_adapters(tmp_path, monkeypatch):
    start = _work(tmp_path)
    monkeypatch.setattr(base, "_check", lambda unet, pairs: {})
    drawn = []
    monkeypatch.setattr(base, "drawn_loss", lambda *given: drawn.append(1) or drawn_loss(*given))
    base.train(tmp_path, 0, start=start, steps=3)
    assert drawn, "most steps compare what is drawn, from the first on"
    before, after = load_tensors(start)[0], load_tensors(tmp_path / "base.safetensors")[0]
    kept = {k for k in before if before[k].equal(after[k])}
    assert {"conv_in.weight", "conv_in.bias"} <= kept and len(kept) < len(before) / 2


def test_a_base_goes_on_with_the_weights_that_it_began_from_only(tmp_path, monkeypatch):
    """Another first layer is trained with --start, so a state of the one does not fit the other."""
    start = _work(tmp_path)
    monkeypatch.setattr(base, "_check", lambda unet, pairs: {})
    other = tmp_path / "other.safetensors"
    tensors = load_tensors(start)[0]
    save_tensors(other, {k: v + 0.01 for k, v in tensors.items()}, {})
    base.train(tmp_path, 0, start=start, steps=1, batch_size=1)
    refused = r"began from {}, but that in .* began from {}\. Remove the files base\.\*"
    with pytest.raises(GenPropError, match=refused.format(r".*other\.safetensors \(\w+\)", r"\w+")):
        base.train(tmp_path, 0, start=other, steps=2, batch_size=1)
    with pytest.raises(GenPropError, match=refused.format("fresh weights", r"\w+")):
        base.train(tmp_path, 0, steps=2, batch_size=1)


def test_the_stages_train_on_another_device_as_on_the_cpu(tmp_path, monkeypatch):
    """The same losses, and a run that goes on there from where it was stopped."""
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: False)
    monkeypatch.setattr(base, "_check", lambda unet, pairs: {})
    monkeypatch.setattr(adapters, "_check", lambda unet, taps, adapters, pairs: {})
    start = _work(tmp_path)
    (tmp_path / "base.safetensors").write_bytes(start.read_bytes())

    def run(folder, steps, device):
        shutil.copytree(tmp_path / "cache", folder / "cache", dirs_exist_ok=True)
        for name in ("vae", "base"):
            shutil.copyfile(tmp_path / f"{name}.safetensors", folder / f"{name}.safetensors")
        adapters.train(folder, 0, steps=steps, device=device, batch_size=1)
        base.train(folder, 0, start=start, steps=steps, device=device, batch_size=1)

    run(tmp_path / "cpu", 2, "cpu")
    with pretend_device() as device:
        run(tmp_path / "there", 1, device)
        run(tmp_path / "there", 2, device)
    for name in ("adapters", "base"):
        expected, made = (load_tensors(tmp_path / place / f"{name}.safetensors")[0] for place in ("cpu", "there"))
        assert all(type(v) is torch.Tensor and v.device.type == "cpu" for v in made.values())
        for key, value in expected.items():
            torch.testing.assert_close(made[key].float(), value.float(), atol=2e-3, rtol=1e-2)


def test_the_vae_trains_on_another_device_as_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: False)
    monkeypatch.setattr(vae, "POOL", 1)
    for name in ("normalise", "measure"):
        monkeypatch.setattr(vae, name, partial(lambda way, module, seeds: way(module, seeds[:1]), getattr(vae, name)))
    expected = vae.train(tmp_path / "cpu", 0, steps=2, batch_size=2)
    with pretend_device() as device:
        vae.train(tmp_path / "there", 0, steps=1, device=device, batch_size=2)
        made = vae.train(tmp_path / "there", 0, steps=2, device=device, batch_size=2)
    assert made["round_trip_psnr"] == pytest.approx(expected["round_trip_psnr"], abs=0.05)
    assert made["latent_std"] == pytest.approx(expected["latent_std"], rel=1e-2)


@pytest.mark.parametrize("every,expected", [(3, [5]), (0, [])])
def test_in_its_second_half_the_adapters_stage_starts_from_keyframes_of_its_own(tmp_path, monkeypatch, every, expected):
    _work(tmp_path)
    (tmp_path / "start.safetensors").rename(tmp_path / "base.safetensors")
    monkeypatch.setattr(adapters, "_check", lambda unet, taps, adapters, pairs: {})
    seen, terms = [], adapters.loss_terms

    def spy(unet, taps, own, condition, target, mask, random, settings, selective):
        seen.append(settings.handed_on)
        return terms(unet, taps, own, condition, target, mask, random, settings, selective)

    monkeypatch.setattr(adapters, "loss_terms", spy)
    adapters.train(tmp_path, 0, steps=7, batch_size=1, handed_every=every)
    assert len(seen) == 7 and [step for step, own in enumerate(seen) if own] == expected
    with pytest.raises(GenPropError, match=r"began from .* \(\w+\), but that in .* began from fresh weights"):
        adapters.train(tmp_path, 0, start=MINI_ADAPTERS, steps=8, batch_size=1)
    assert len(seen) == 7
