"""The mini's training stages: what they learn from, what is taken over, packed, exported and scored."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_unet

from genprop_core.adapters import GAIN_SPEED, GenPropAdapters
from genprop_core.assets import MINI_ADAPTERS, MINI_BASE
from genprop_core.base import load_base
from genprop_core.checkpoint import load_adapters, save_adapters
from genprop_core.conditioning import SCALING
from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, save_tensors
from trainer import evaluate
from trainer.mini import ablation, base
from trainer.mini.__main__ import main
from trainer.mini.ablation import VARIANTS, chosen
from trainer.mini.adapters import take_over
from trainer.mini.base import keyframe_in_part, make_condition, several_keyframes
from trainer.mini.curves import FOLDER, add, curve_name
from trainer.mini.export import export, provenance_of, unpack


def test_with_several_keyframes_every_frame_is_shown_one_near_to_it():
    g = torch.Generator().manual_seed(0)
    clean = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(64, 8, 4, 2, 2) * SCALING  # frame t holds t, unscaled
    batch = {"target": clean, "source": clean, "image": torch.full((64, 4, 2, 2), -1.0), "clip": torch.zeros(64, 1, 8)}
    condition = make_condition(batch)
    assert several_keyframes(condition, clean, g, 0.0).image_latents.equal(condition.image_latents)
    shown = several_keyframes(condition, clean, g, 1.0).image_latents[:, :, 0, 0, 0].round().long()
    for row in shown:
        keys = row.unique()
        assert len(keys) >= 2 and row[keys].equal(keys)  # a keyframe's own frame shows it
        distance = (torch.arange(8)[:, None] - keys[None]).abs()
        assert (row - torch.arange(8)).abs().equal(distance.amin(dim=1))
    mixed = several_keyframes(condition, clean, g, 0.5).image_latents
    alone = (mixed == condition.image_latents).flatten(1).all(1).sum()
    assert 16 < alone < 48 and condition.image_latents.max() == -1  # the given condition stays as it is


def test_with_the_keyframe_in_a_part_the_rest_shows_each_frame_itself():
    g = torch.Generator().manual_seed(0)
    clean = torch.randn(64, 8, 4, 2, 2, generator=g)
    batch = {"target": clean, "source": clean, "image": torch.full((64, 4, 2, 2), -1.0), "clip": torch.zeros(64, 1, 8)}
    condition = make_condition(batch)
    region = torch.zeros(64, 8, 1, 2, 2)
    region[:, 3:, :, 0] = 1
    assert keyframe_in_part(condition, clean, region, g, 0.0).image_latents.equal(condition.image_latents)
    shown = keyframe_in_part(condition, clean, region, g, 1.0).image_latents
    assert (shown[:, 3:, :, 0] == -1).all()
    torch.testing.assert_close(shown[:, 3:, :, 1] * SCALING, clean[:, 3:, :, 1])
    torch.testing.assert_close(shown[:, :3] * SCALING, clean[:, :3])
    mixed = keyframe_in_part(condition, clean, region, g, 0.5).image_latents
    alone = (mixed == condition.image_latents).flatten(1).all(1).sum()
    assert 16 < alone < 48 and condition.image_latents.max() == -1  # the given condition stays as it is


def test_variants_of_the_ablation_are_chosen_by_words():
    assert chosen(None) == VARIANTS
    assert set(chosen("fused,norm in every")) == {"fused SCE", "a norm in every injection"}
    with pytest.raises(GenPropError, match=r"Expected words of default.*three copied blocks, got fuzed"):
        chosen("fuzed,block")


def test_adapters_take_over_what_fits_of_earlier_ones():
    unet = tiny_unet()
    earlier = GenPropAdapters.from_unet(unet, injection_norm=True)
    for parameter in earlier.parameters():
        torch.nn.init.normal_(parameter)
    same, other = (GenPropAdapters.from_unet(unet, injection_norm=n) for n in (True, False))
    assert take_over(same, earlier) and not take_over(other, earlier)
    expected = earlier.state_dict()
    assert all(v.equal(expected[k]) for k, v in same.state_dict().items())
    fresh = {k for k, v in other.state_dict().items() if k not in expected or not v.equal(expected[k])}
    assert fresh and all(k.startswith(("injections.", "shown.")) for k in fresh)
    assert not any(layer.conv.weight.any() for layer in other.injections[1:]) and not other.shown.gain.any()
    without = GenPropAdapters.from_unet(unet, injection_norm=True, show_source=False)
    assert not take_over(without, earlier) and not any(layer.conv.weight.any() for layer in without.injections)
    assert without.sce.conv_in.weight.equal(earlier.sce.conv_in.weight)
    shows = GenPropAdapters.from_unet(unet)
    assert not take_over(shows, without) and (shows.shown.gain * GAIN_SPEED).eq(1).all()


def test_the_shipped_base_is_unpacked_and_exported_again_with_what_is_known_of_it(tmp_path, capsys, monkeypatch):
    work, assets, curves = tmp_path / "work", tmp_path / "assets", tmp_path / "curves"
    assert main(["unpack", "--work", str(work)]) == 0
    assert main(["export", "--work", str(work)]) == 2
    assert "Expected trained adapters at " in (said := capsys.readouterr().err) and len(said.splitlines()) == 1
    shutil.copyfile(MINI_ADAPTERS, work / "adapters.safetensors")
    (work / "adapters.jsonl").write_text('{"step": 1, "nonmask": 1.0, "mask": 1.0, "mpd": 1.0}\n')
    shutil.copytree(FOLDER, curves)
    with monkeypatch.context() as patch, pytest.raises(GenPropError, match="matplotlib.* Run: pip install matplotlib"):
        patch.setitem(sys.modules, "matplotlib", None)
        export(work, assets, curves)
    assert not assets.exists(), "nothing is replaced by half"
    export(work, assets, curves)
    new, old = assets / "mini" / "base.safetensors", MINI_BASE
    assert load_tensors(new)[1] == load_tensors(old)[1]
    made = load_tensors(new)[0]
    assert all(made[key].equal(value) for key, value in load_tensors(old)[0].items())
    assert (curves / "base.jsonl").read_text() == (FOLDER / "base.jsonl").read_text()
    assert (curves / "adapters.jsonl").read_text() == (work / "adapters.jsonl").read_text()
    # a stage that was run here speaks for itself; weights of which nothing is known do not ship
    (work / "base.jsonl").write_text('{"step": 7}\n')
    assert provenance_of(work, "base") == {"step": 7}
    vae = load_tensors(work / "vae.safetensors")[0]
    save_tensors(work / "vae.safetensors", {k: v + 1 for k, v in vae.items()}, {})
    with pytest.raises(GenPropError, match=r"Expected vae\.jsonl.*Run: python -m trainer\.mini vae --work"):
        export(work, assets, curves)


def test_what_was_trained_is_packed_for_a_try_without_touching_what_ships(tmp_path, capsys):
    work, shipped = tmp_path / "work", MINI_BASE.read_bytes()
    assert main(["pack", "--work", str(work)]) == 2
    assert "Run: python -m trainer.mini vae --work" in (said := capsys.readouterr().err) and len(said.splitlines()) == 1
    unpack(work)
    assert main(["pack", "--work", str(work)]) == 0
    assert f"--base {work / 'mini.safetensors'}" in capsys.readouterr().out
    made, expected = load_base(str(work / "mini.safetensors")), load_base("mini")
    for name, value in expected.unet.state_dict().items():
        assert made.unet.state_dict()[name].equal(value)
    assert MINI_BASE.read_bytes() == shipped


def test_a_run_that_went_on_has_a_curve_of_its_own(tmp_path):
    first, second = (json.dumps({"step": 0, "started_from": digest}) + "\n" for digest in "ab")
    assert curve_name(tmp_path, "base", '{"step": 100}\n') == "base"
    assert curve_name(tmp_path, "base", first) == "base_continued"
    (tmp_path / "base_continued.jsonl").write_text(first + '{"step": 100}\n')
    assert curve_name(tmp_path, "base", first + '{"step": 200}\n') == "base_continued"
    assert curve_name(tmp_path, "base", second) == "base_continued_2"


def test_all_runs_every_stage_with_its_share_and_stops_where_one_stops(monkeypatch, capsys):
    ran = []
    for stage in ("vae", "base", "adapters", "long", "decoder"):
        def train(work, minutes, seed, device, stage=stage, **extra):
            ran.append((stage, round(minutes), seed, extra))
            if minutes > 100:
                raise GenPropError("no more")
        monkeypatch.setattr(f"trainer.mini.{stage}.train", train)  # fmt: skip
    monkeypatch.setattr("trainer.mini.cache.build", lambda work, pairs, *_: ran.append(("cache", pairs)))
    monkeypatch.setattr("trainer.mini.rollouts.build", lambda work, clips, *_: ran.append(("rollouts", clips)))
    monkeypatch.setattr("trainer.mini.export.pack", lambda work: ran.append("pack") or "packed")
    assert main(["all", "--minutes", "100", "--pairs", "50", "--long_clips", "30", "--seed", "3", "--batch", "8"]) == 0
    batch, start = {"batch_size": 8}, {"start": None}
    base, adapters = ("base", 41, 3, batch | start), ("adapters", 41, 3, batch | start | {"selective": 0.25})
    last = [("rollouts", 30), ("long", 8, 3, batch | start), ("decoder", 7, 3, batch | start), "pack"]
    assert ran == [("vae", 3, 3, batch), ("cache", 50), base, adapters, *last]
    assert capsys.readouterr().out.endswith(f"--base packed --adapters {Path('output/mini/adapters.safetensors')}\n")
    assert main(["all", "--minutes", "1000"]) == 2 and ran[-1][0] == "base"
    assert main(["all", "--start", "x.safetensors"]) == 2
    assert re.search("from scratch: leave out --start", capsys.readouterr().err)


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--minutes", "nan"], ["--batch", "0"]])
def test_no_time_and_no_batch_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        main(["base", *words])
    least = "above 0" if words[0] == "--minutes" else "at least 1"
    assert f"{words[0]} must be {least}, got {words[1]}" in capsys.readouterr().err


def test_without_pairs_and_a_vae_nobody_waits(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(base.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    command = ["base", "--work", str(tmp_path)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "got 0 and no vae.safetensors" in said and f"trainer.mini vae --work {tmp_path}" in said
    assert len(said.splitlines()) == 1
    (tmp_path / "vae.safetensors").touch()
    assert main(command) == 130  # it waits, until Ctrl+C
    out, err = capsys.readouterr()
    assert f"0 of 50 pairs; it is filled by: python -m trainer.mini cache --work {tmp_path}" in out
    assert err == "stopped: the same command goes on from what was saved\n"


def test_all_weights_together_are_small():
    assert MINI_BASE.stat().st_size + MINI_ADAPTERS.stat().st_size < 24_000_000


def test_evaluate_scores_held_out_clips(tmp_path, capsys):
    options = ["--clips", "2", "--steps", "1", "--controls", "1", "--cache", str(tmp_path / "cache")]
    assert evaluate.main([*options, "--json", str(tmp_path / "scores.json")]) == 0
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["clips"] == 2 and report["frames"] == 8 and report["size"] == [128, 128]
    assert set(report["result"]) >= {"psnr", "ssim", "psnr_outside", "psnr_inside", "mask_iou", "removed", "spread"}
    assert set(report["floors"]) == {"copy_source", "repeat_keyframe", "vae_round_trip", "plain_svd"}
    assert report["controls"]["clips"] == 1
    assert report["floors"]["vae_round_trip"]["psnr"] > 27  # the difficulty is fixed: no worse VAE than this
    assert "vae_round_trip" in capsys.readouterr().out


def test_a_run_of_train_py_becomes_the_next_curve(tmp_path):
    run, curves = tmp_path / "run", tmp_path / "curves"
    shutil.copytree(FOLDER, curves)
    run.mkdir()
    log = run / "log.jsonl"
    log.write_text("".join(json.dumps({"step": i + 1, "L_total": 2.0, "L_mask": float(i)}) + "\n" for i in range(250)))
    with pytest.raises(GenPropError, match="Expected the run's adapters.safetensors beside"):
        add(log, curves)
    adapters = load_adapters(MINI_ADAPTERS)
    for digest in (None, "0123456789abcdef"):
        save_adapters(run / "adapters.safetensors", adapters.adapters, adapters.fingerprint, {"started_from": digest})
        if digest is None:
            with pytest.raises(GenPropError, match="a run that went on from other adapters"):
                add(log, curves)
    before = {p.name: p.read_text() for p in curves.glob("*.jsonl")}
    written = add(log, curves)
    assert written.name not in before and add(log, curves) == written
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert rows[0] == {"step": 0, "started_from": "0123456789abcdef"}
    assert [(r["step"], r["mask"]) for r in rows[1:]] == [(100, 49.5), (200, 149.5)]
    assert all((curves / name).read_text() == text for name, text in before.items())


def test_the_default_is_scored_with_guidance_too_in_both_branches_and_in_one(tmp_path, monkeypatch):
    trained, scored, given = [], [], {}

    def train(place, *rest, **config):
        trained.append(place.name)
        given[place.name] = {k: v for k, v in config.items() if k in ("shares", "selection", "num_blocks")}

    monkeypatch.setattr(ablation, "pack", lambda folder: folder / "mini.safetensors")
    monkeypatch.setattr(ablation.adapters, "train", train)

    def score(options, name):
        scored.append(("--max-cfg" in options, "--sce-in-cond-only" in options, name.parent.name))
        return {"result": dict.fromkeys(evaluate.KEYS, float(len(scored)))}

    monkeypatch.setattr(ablation, "_score", score)
    (tmp_path / "base.safetensors").write_bytes(b"one")
    text = ablation.run(tmp_path, 5, clips=2, out=tmp_path / "out.json", only="default,no copying stage")
    assert len(trained) == 3 and len(set(trained)) == 3  # "no selection, no copying stage" too
    alone = {"shares": (0.0, 0.0)}
    assert [given[name] for name in trained] == [{}, alone | {"selection": False}, alone], "each is what it is called"
    assert [s[:2] for s in scored] == [(False, False), (True, False), (True, True), (False, False), (False, False)]
    assert scored[0][2] == scored[1][2] == scored[2][2] != scored[3][2]
    found = json.loads((tmp_path / "out.json").read_text())["variants"]
    for number, name in enumerate(ablation.OF_THE_DEFAULT, 2):
        assert found[name]["result"]["psnr"] == number and f"| {name} | {number}.000 |" in text
    # another one joins them; with another seed or base nothing trained before is taken for it
    places = set(trained)
    ablation.run(tmp_path, 5, clips=2, out=tmp_path / "out.json", only="three")
    assert found.keys() < json.loads((tmp_path / "out.json").read_text())["variants"].keys()
    trained.clear()
    ablation.run(tmp_path, 5, 1, clips=2, out=tmp_path / "out.json", only="default,no copying stage")
    assert not places & set(trained)
    assert json.loads((tmp_path / "out.json").read_text())["variants"].keys() == found.keys()
    (tmp_path / "base.safetensors").write_bytes(b"two")
    ablation.run(tmp_path, 5, clips=2, out=tmp_path / "other.json", only="default,no copying stage")
    assert len(set(trained)) == 6 and not places & set(trained)
