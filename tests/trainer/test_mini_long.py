"""Adapters that go on for clips of many windows: long clips of their own making, drawn as the mini is sampled."""

import re
import shutil
from functools import partial

import pytest
import torch
from noise_pairs import noise_batch, work_folder
from pretend_device import pretend_device

from genprop_core.assets import MINI_ADAPTERS
from genprop_core.attach import attach
from genprop_core.checkpoint import load_adapters
from genprop_core.edm import initial_noise_scale
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, save_tensors
from genprop_core.headless_windows import HeadlessWindows
from genprop_core.losses import LossSettings
from genprop_core.pipeline import GenProp
from genprop_core.sampler import sample
from genprop_core.unet import denoise
from trainer.mini import cache, long, rollouts
from trainer.mini.__main__ import main
from trainer.mini.base import make_condition
from trainer.mini.clips import Clip, make_clip
from trainer.mini.curves import FOLDER
from trainer.mini.drawing import LATENTS, LEVELS, MASK, PIXELS, drawn_terms, pixel_loss
from trainer.mini.export import export, unpack

SHORT = 12  # frames of a long clip here


@pytest.fixture(scope="module")
def mini():
    return GenProp.from_files("mini")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(rollouts, "LENGTH", SHORT)


def _clip_file(folder, number, made_by):
    """Frame t of a clip holds 100 * number + t in "source", "target" 0.5 more, its own keyframe the negative."""
    t = 100.0 * number + torch.arange(SHORT).view(-1, 1, 1, 1)
    tensors = {
        "source": t.expand(-1, 4, 16, 16),
        "target": t.expand(-1, 4, 16, 16) + 0.5,
        "mask": torch.zeros(SHORT, 1, 16, 16),
        "own": -t.expand(-1, 4, 16, 16),
        "true": t.expand(-1, 4, 16, 16),
        "clip_own": -t.flatten()[:, None].expand(-1, 64),
        "clip_true": t.flatten()[:, None].expand(-1, 64),
    }
    tensors = {k: v.half().contiguous() for k, v in tensors.items()}
    use = torch.zeros(SHORT, dtype=torch.bool)
    use[[0, 3, SHORT - 1]] = True  # no window can start at the last
    pictures = torch.arange(SHORT, dtype=torch.uint8).view(-1, 1, 1, 1) + number
    tensors |= {"use": use, "truth": pictures.expand(-1, 3, 128, 128).contiguous()}
    tensors["area"] = torch.full((SHORT, 1, 128, 128), 255, dtype=torch.uint8)
    seed = rollouts.FIRST_SEED + number
    save_tensors(folder / rollouts.FOLDER / f"{seed}.safetensors", tensors, made_by)


def _work(folder, clips):
    """A work folder with pairs of noise and `clips` long ones."""
    work_folder(folder)
    made_by = {"vae": cache.digest_of_vae(folder)}
    for number in range(clips):
        _clip_file(folder, number, made_by)
    return folder


def test_what_is_kept_is_what_a_window_was_given(mini, monkeypatch):
    given, run = {}, HeadlessWindows.run

    def spy(self, source, keyframe, **other):
        given[float(source[0].mean())] = keyframe
        return run(self, source, keyframe, **other)

    monkeypatch.setattr(HeadlessWindows, "run", spy)
    clip = make_clip(5, 18)
    own = rollouts.own_keyframes(mini, clip, seed=1)
    assert own.shape == clip.source.shape and len(given) > 2
    source = (clip.source * 255).round() / 255
    found = {float(frame.mean()): keyframe for frame, keyframe in zip(source, own)}
    assert all(found[at].equal(keyframe) for at, keyframe in given.items())
    assert (own[0] - clip.target[0]).abs().max() <= 0.5 / 255 + 1e-6
    assert not any(a.equal(b) for a, b in zip(own[1:], clip.target[1:]))


def test_only_keyframes_that_show_the_edit_are_learned_from():
    g = torch.Generator().manual_seed(0)
    source, target = torch.rand(2, 5, 3, 16, 16, generator=g).unbind()
    mask = torch.zeros(5, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    mask[4] = 0  # hidden there
    own = target.clone()
    own[1] = torch.where(mask[1] > 0, source[1], target[1])  # it came back
    own[2] = torch.where(mask[2] > 0, target[2], 1 - target[2])  # something else was edited
    own[3] = target[3] + 0.05
    assert rollouts.usable(own, Clip(source, target, mask)).tolist() == [True, False, False, True, True]
    own[4] = source[4]
    assert not rollouts.usable(own, Clip(source, target, mask))[4]


def test_windows_are_cut_at_usable_keyframes_and_shown_with_their_own_frames(tmp_path, short):
    clips = rollouts.Rollouts(_work(tmp_path, 3))
    assert len(clips) == 3

    def rows(share, **part):
        g = torch.Generator().manual_seed(0)
        batch = clips.batch(40, share, 2, g, **part)
        assert batch["source"].dtype == torch.float32 and batch["source"].shape == (40, 8, 4, 16, 16)
        for n in range(40):
            frames = batch["source"][n, :, 0, 0, 0]
            assert batch["target"][n, :, 0, 0, 0].equal(frames + 0.5)
            expected = frames[batch["at"][n]]
            shown = (batch["truth"][n, :, 0, 0, 0] * 255).round()
            assert shown.equal(expected % 100 + expected // 100) and (batch["area"][n] == 1).all()
            yield frames.tolist(), float(batch["image"][n, 0, 0, 0]), float(batch["clip"][n, 0, 0])

    starts = set()
    for frames, image, clip in rows(1.0):
        assert image == clip == -frames[0] and frames == [frames[0] + t for t in range(8)]
        starts.add(frames[0])
    assert starts == {0, 3, 100, 103, 200, 203}
    backwards = 0
    for frames, image, clip in rows(0.0, first=1, last=2):
        step = frames[1] - frames[0]
        assert image == clip == frames[0] and frames == [frames[0] + step * t for t in range(8)] and step in (1, -1)
        assert 100 <= min(frames) and max(frames) < 100 + SHORT
        backwards += step < 0
    assert 5 < backwards < 35


def test_clips_of_another_vae_and_none_at_all_are_refused(tmp_path, short, capsys):
    with pytest.raises(GenPropError, match=r"Expected long clips in .*rollouts.*trainer\.mini rollouts --work"):
        rollouts.Rollouts(tmp_path)
    assert main(["rollouts", "--work", str(tmp_path)]) == 2
    assert "Expected adapters to make clips with in" in capsys.readouterr().err
    unpack(tmp_path)
    _clip_file(tmp_path, 0, {"vae": "another"})
    for use in (rollouts.Rollouts, lambda folder: rollouts.build(folder, 2, MINI_ADAPTERS)):
        with pytest.raises(GenPropError, match=r"latents of the VAE .* has those of another.*Remove .*rollouts"):
            use(tmp_path)


def test_long_clips_are_made_once_and_the_same_by_several_processes(tmp_path, short, monkeypatch):
    monkeypatch.setattr(rollouts, "LENGTH", 8)
    for name, clips, workers in (("alone", 1, 0), ("together", 2, 2)):
        unpack(tmp_path / name)
        rollouts.build(tmp_path / name, clips, MINI_ADAPTERS, workers=workers)
    alone, together = (sorted((tmp_path / n / rollouts.FOLDER).iterdir()) for n in ("alone", "together"))
    assert [len(alone), len(together)] == [1, 2] and alone[0].name == together[0].name
    for a, b in zip(alone, together):
        (mine, meta), (other, _) = load_tensors(a), load_tensors(b)
        assert meta["adapters"] == load_adapters(MINI_ADAPTERS).digest
        assert mine["use"][0] and (mine["own"][1:] != mine["true"][1:]).any()
        for key, value in mine.items():
            torch.testing.assert_close(value, other[key], atol=2e-2, rtol=1e-2)
    kept = alone[0].stat().st_mtime_ns
    rollouts.build(tmp_path / "alone", 1, MINI_ADAPTERS)
    assert alone[0].stat().st_mtime_ns == kept


@pytest.mark.parametrize("seed,reached", [(0, 0), (1, 1)])
def test_adapters_that_draw_the_truth_lose_nothing_but_for_the_mask(mini, seed, reached):
    """The same picture as the sampler's, and every part of the loss in its place."""
    unet, vae, adapters = mini.base.unet, mini.base.vae, mini.adapters
    batch = noise_batch(1, 7)
    batch |= {"mask": torch.zeros(1, 8, 1, 16, 16), "area": torch.zeros(1, 2, 1, 128, 128)}
    batch["at"] = torch.tensor([[2, 5]])
    batch["mask"][..., :4], batch["area"][..., :32] = 1, 1
    condition, settings = make_condition(batch), LossSettings()

    def terms(**other):
        with attach(unet, adapters.config.num_blocks) as taps, torch.no_grad():
            g = torch.Generator().manual_seed(seed)
            given = batch | {"truth": torch.zeros(1, 2, 3, 128, 128)} | other
            return drawn_terms(unet, vae, taps, adapters, condition, given, g, 0.5, settings)

    g = torch.Generator().manual_seed(seed)
    assert int(torch.randint(len(LEVELS), (), generator=g)) == reached
    noise = torch.randn(batch["target"].shape, generator=g)
    with torch.no_grad():
        if reached == len(LEVELS) - 1:
            made, _ = sample(unet, adapters, condition, noise, mini.resolved().sampler)
        else:
            with attach(unet, adapters.config.num_blocks) as taps:
                inputs = (condition.source, condition.keyframe, condition.clip, condition.micro, condition.task)
                own = (taps, adapters, adapters.encode(*inputs))
                first = noise * initial_noise_scale()
                made = denoise(unet, first, torch.tensor(LEVELS[:1]), condition, *own)
        truth = vae.decode(made[0, [2, 5]], return_dict=False)[0][None] / 2 + 0.5
    right = terms(target=made, truth=truth)
    assert all(right[k] < 1e-6 for k in ("pixels_in", "pixels_out", "latents_in", "latents_out"))
    torch.testing.assert_close(right["total"], MASK * (right["mpd"] + right["select"]), atol=1e-4, rtol=1e-4)
    wrong = terms(target=made + batch["mask"], truth=truth + 0.1 * (1 - batch["area"]))
    assert wrong["pixels_in"] < 1e-6 and abs(wrong["pixels_out"] - 0.01) < 1e-5
    assert wrong["latents_out"] < 1e-6 and abs(wrong["latents_in"] - 1) < 1e-4
    expected = PIXELS * pixel_loss(wrong["pixels_out"]) + 0.5 * settings.lambda_mask * LATENTS
    assert abs(wrong["total"] - right["total"] - expected) < 1e-3


def _noted(taken, function, pairs, count, g, device):
    batch = function(pairs, count, g, device)
    taken.append(batch)
    assert batch["truth"].shape == (count, long.AT, 3, 128, 128) and batch["area"].shape[2:] == (1, 128, 128)
    return batch


def test_a_pair_gives_what_a_window_of_a_long_clip_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 2)
    monkeypatch.setattr(long, "FIRST_PAIR", 0)
    unpack(tmp_path)
    cache.build(tmp_path, 2)
    pairs, g = cache.Pairs(tmp_path), torch.Generator().manual_seed(2)
    batch = long._from_pairs(pairs, 6, g, torch.device("cpu"))
    clips, seen = [make_clip(0), make_clip(1)], set()
    for n in range(6):
        number = next(i for i in (0, 1) if any(batch["target"][n].equal(v) for v in _both_ways(pairs, i)))
        back = not batch["target"][n].equal(pairs.tensors["target"][number].float())
        seen.add((number, back))
        for frame, truth, area in zip(batch["at"][n].tolist(), batch["truth"][n], batch["area"][n]):
            frame = 7 - frame if back else frame
            assert (truth - clips[number].target[frame]).abs().max() <= 0.5 / 255 + 1e-6
            assert ((area > 0.5) == (clips[number].mask[frame] > 0.5)).float().mean() > 0.97
    assert len(seen) > 2


def _both_ways(pairs, row):
    played = pairs.tensors["target"][row].float()
    return played, played.flip(0)


def test_the_stage_learns_goes_on_and_says_what_it_made(tmp_path, short, monkeypatch, capsys):
    work = _work(tmp_path, 4)
    monkeypatch.setattr(long, "CHECK", 1)
    monkeypatch.setattr(long, "CHECK_FROM", 2)
    drawn, taken = [], []
    monkeypatch.setattr(long, "_from_pairs", partial(_noted, taken, long._from_pairs))
    terms = long.drawn_terms

    def spy(unet, vae, taps, adapters, condition, batch, g, selective, settings):
        drawn.append(selective)
        return terms(unet, vae, taps, adapters, condition, batch, g, selective, settings)

    windows, batch = [], rollouts.Rollouts.batch

    def noted(self, *given, last=None, **other):
        made = batch(self, *given, last=last, **other)
        windows.append((last, made["source"].min(), made["source"].max()))
        return made

    monkeypatch.setattr(rollouts.Rollouts, "batch", noted)
    monkeypatch.setattr(long, "drawn_terms", spy)
    assert main(["long", "--work", str(work)]) == 2
    assert "Expected adapters to go on from in" in capsys.readouterr().err
    long.train(work, 0, start=MINI_ADAPTERS, steps=3, batch_size=1)
    trained = [s for s in drawn if s != 1.0]
    assert set(trained) == {long.SELECTIVE} and len(trained) in (1, 2, 3) and len(taken) in (1, 2)
    before, after = load_tensors(MINI_ADAPTERS)[0], load_adapters(work / "long.safetensors")
    assert after.provenance["started_from"] == load_adapters(MINI_ADAPTERS).digest and after.provenance["steps"] == 3
    made = load_tensors(work / "long.safetensors")[0]
    moved = [k for k, v in before.items() if not made[k].equal(v)]
    assert len(moved) > len(before) / 2
    facts = long.train(work, 0, start=MINI_ADAPTERS, steps=5, batch_size=1)
    after = load_adapters(work / "long.safetensors")
    assert after.provenance["steps"] == 5
    assert {"true_psnr_in", "own_psnr_out", "own_mpd"} <= facts.keys()
    assert all(high < 200 if last else low >= 200 for last, low, high in windows), "the curve has clips of its own"
    assert {last for last, *_ in windows} == {None, long.CHECK_FROM}
    assert main(["pack", "--work", str(work)]) == 0
    assert re.search(r"--adapters \S*long\.safetensors", capsys.readouterr().out)
    shutil.copytree(FOLDER, curves := tmp_path / "curves")
    export(work, tmp_path / "assets", curves)
    assert load_adapters(tmp_path / "assets" / "mini" / "adapters.safetensors").digest == after.digest
    new = {p.name for p in curves.glob("*.jsonl")} - {p.name for p in FOLDER.glob("*.jsonl")}
    assert len(new) == 1 and new.pop().startswith("adapters_continued_")
    with pytest.raises(GenPropError, match=r"began from \w+\. Remove the files long\.\*"):
        long.train(work, 0, start=work / "long.safetensors", steps=7, batch_size=1)
    shutil.copyfile(work / "long.safetensors", work / "adapters.safetensors")
    with pytest.raises(GenPropError, match=r"Expected .*long\.safetensors to go on from .*Remove the files long"):
        export(work, tmp_path / "assets", curves)
    monkeypatch.setattr(long, "CHECK_FROM", 4)
    with pytest.raises(GenPropError, match=r"Expected more than 4 long clips, got 4\. Run the stage rollouts"):
        long.train(work, 0, start=MINI_ADAPTERS, steps=5)


def test_both_stages_run_on_another_device(tmp_path, short, monkeypatch):
    monkeypatch.setattr(long, "CHECK", 1)
    monkeypatch.setattr(long, "CHECK_FROM", 1)
    work = _work(tmp_path, 2)
    with pretend_device() as device:
        rollouts.build(work, 3, MINI_ADAPTERS, device=device)
        long.train(work, 0, start=MINI_ADAPTERS, steps=2, device=device, batch_size=1)
    made = load_tensors(work / "long.safetensors")[0] | load_tensors(rollouts.Rollouts(work).files[-1])[0]
    assert all(type(v) is torch.Tensor and v.device.type == "cpu" for v in made.values())
