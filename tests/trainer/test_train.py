"""The real trainer on four generated clips: what it learns from, writes and promises."""

import json

import pytest
import torch

from genprop_core.base import load_base
from genprop_core.checkpoint import load_adapters
from genprop_core.files import load_tensors
from genprop_core.pipeline import GenProp, PropagateSettings
from genprop_core.sampler import SamplerSettings
from genprop_core.video_io import probe, read_image
from trainer.logs import read_log


def losses(folder):
    return [
        {k: v for k, v in row.items() if k.startswith("L_")} for row in read_log(folder / "log.jsonl") if "lr" in row
    ]


def test_ten_steps_through_loader_cache_checkpoint_and_validation(train, tmp_path, base_file, data):
    train(max_steps=10, val_interval=1, val_num_frames=6, keep=2, tracker="tensorboard", num_workers=1, save_steps=5)
    rows = read_log(tmp_path / "out" / "log.jsonl")
    steps = [row for row in rows if "lr" in row]
    assert [row["step"] for row in steps] == list(range(1, 11))
    assert {"L_total", "L_nonmask", "L_mask", "L_grad", "L_mpd", "grad_norm", "lr", "clips_per_second"} <= steps[
        0
    ].keys()
    assert [row["lr"] for row in steps[:2]] == [5e-4, 1e-3] and steps[-1]["lr"] < 1e-4
    assert len(list((tmp_path / "out" / "cache").glob("*.safetensors"))) == 4

    kept = sorted(p.name for p in (tmp_path / "out" / "checkpoints").iterdir())
    assert kept == ["step_00000008", "step_00000010"]

    assert [row["epoch"] for row in rows if "validation" in row] == [1, 2, 2]  # after steps 4, 8 and 10, the end
    made = {p.parent.name: json.loads(p.read_text())["step"] for p in (tmp_path / "val").rglob("metrics.json")}
    assert made == {"epoch_1": 4, "epoch_2": 8, "step_10": 10}
    folder = tmp_path / "val" / "step_10"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["clips"] == 2 and metrics["frames"] == 6 and "copy_source" in metrics["floors"]
    for index in range(2):
        assert probe(folder / f"val_sample_{index}.mp4").frames == 6
        assert probe(folder / f"val_sample_{index}_mask.mp4").frames == 6
        assert read_image(folder / f"val_sample_{index}_input.png").shape == (64, 64, 3)
    assert read_image(folder / "sheet.png").shape[0] > 64
    events = [p for p in (tmp_path / "out").rglob("events.out.tfevents*")]
    assert any(b"validation/sheet" in p.read_bytes() and b"GIF89a" in p.read_bytes() for p in events)

    # what was trained loads into the pipeline as it is
    file = load_adapters(tmp_path / "out" / "adapters.safetensors")
    assert metrics["checkpoint"] == file.digest and (metrics["step"], metrics["seed"]) == (10, 42)
    assert metrics["settings"]["num_inference_steps"] == 2 and metrics["settings"]["base"] == str(base_file)
    assert file.provenance["step"] == 10 and file.provenance["settings"]["lr"] == 1e-3
    assert any(layer.conv.weight.abs().max() > 0 for layer in file.adapters.injections[1:])
    frames = torch.rand(4, 3, 64, 64)
    settings = PropagateSettings(SamplerSettings(2), width=64, height=64)
    assert GenProp(load_base(base_file), file).propagate(frames, frames[0], settings).frames.shape == frames.shape


def test_the_loop_never_touches_vae_or_clip_and_the_cache_changes_no_loss(train, tmp_path, monkeypatch):
    from trainer.encoder import Encoder

    calls = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, frames, name: calls.append(name) or encode(self, frames, name))
    settings = {"keyframes_max": 3, "corrupt_source": "blur", "reverse": 0.5}
    train(output_dir=tmp_path / "cached", **settings)
    assert sorted(calls) == [f"clip{i}" for i in range(4)]  # once per clip
    calls.clear()
    train(output_dir=tmp_path / "again", cache_dir=tmp_path / "cached" / "cache", **settings)
    assert calls == []
    train(output_dir=tmp_path / "uncached", cache_dir="none", **settings)
    assert len(calls) == 4  # at every step
    assert losses(tmp_path / "cached") == losses(tmp_path / "again")
    for a, b in zip(losses(tmp_path / "cached"), losses(tmp_path / "uncached")):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)


def test_gradient_checkpointing_and_accumulation_train_the_same(train, tmp_path):
    train(output_dir=tmp_path / "a", batch_size=2, cache_dir=tmp_path / "cache")
    train(output_dir=tmp_path / "b", batch_size=1, gradient_accumulation_steps=2, cache_dir=tmp_path / "cache",
          gradient_checkpointing=True)  # fmt: skip
    for a, b in zip(losses(tmp_path / "a"), losses(tmp_path / "b"), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)


def test_half_precision(train, tmp_path):
    """A base in bf16 with adapters in fp32: losses near those of fp32, and a validation that works."""
    train(output_dir=tmp_path / "fp32", max_steps=2)
    train(
        output_dir=tmp_path / "bf16", max_steps=2, mixed_precision="bf16", gradient_checkpointing=True, val_interval=1
    )
    for a, b in zip(losses(tmp_path / "fp32"), losses(tmp_path / "bf16"), strict=True):
        assert a["L_total"] == pytest.approx(b["L_total"], rel=0.05)
    assert (tmp_path / "val" / "step_2" / "metrics.json").exists()
    state, _ = load_tensors(tmp_path / "bf16" / "checkpoints" / "step_00000002" / "state.safetensors")
    assert {v.dtype for k, v in state.items() if k.startswith("model.")} == {torch.float32}


def test_fused_form_and_settings_from_a_file(words, tmp_path):
    from trainer import arguments
    from trainer.train import run

    lines = ["lr = 2e-3", "[model]", 'sce = "fused"', "num_blocks = 1", "[data]", "reverse = 1.0", "handed_every = 2"]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    run(arguments.parse(["--config", tmp_path / "run.toml", *words(max_steps=2, lr=None)]))
    file = load_adapters(tmp_path / "out" / "adapters.safetensors")
    assert file.adapters.config.sce == "fused" and file.adapters.config.num_blocks == 1
    assert read_log(tmp_path / "out" / "log.jsonl")[1]["lr"] == 2e-3
    assert arguments.parse(["--config", tmp_path / "run.toml", *words(lr=7e-3)]).lr == 7e-3


def test_the_command_line_wins_over_flags_and_the_length_in_a_file(words, tmp_path):
    from trainer import arguments

    flags = ["gradient_checkpointing", "fast_validation"]
    file = tmp_path / "run.toml"
    file.write_text("\n".join([*(f"{flag} = true" for flag in flags), "max_steps = 7", "epochs = 2"]))

    def parse(*more):
        given = arguments.parse(["--config", file, *words(max_steps=None), *more])
        return [getattr(given, name) for name in (*flags, "max_steps", "epochs")]

    assert parse() == [True, True, 7, 2]
    assert parse("--no-gradient_checkpointing", "--epochs", "3") == [False, True, None, 3]
    assert parse("--no-fast_validation", "--epochs=3", "--max_steps=5") == [True, False, 5, 3]
    file.write_text("gradient_checkpointing = false")
    assert parse()[0] is False and parse("--gradient_checkpointing")[0] is True


def test_running_out_of_memory_names_the_trainers_settings(train, monkeypatch, tmp_path):
    from genprop_core.errors import GenPropError
    from trainer.encoder import Encoder

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    def said(part, match, **settings):
        with monkeypatch.context() as patch, pytest.raises(GenPropError, match=match) as caught:
            patch.setattr(part, fail)
            train(**settings)
        assert "\n" not in str(caught.value) and not {"--dtype", "--decode-chunk"} & set(str(caught.value).split())

    without = r".* Go on without it by --val_interval 0"
    said("trainer.encoder.Encoder.encode", r"encoding the clips.* Use --mixed_precision bf16 or fp16, or a smaller --r")
    step = "trainer.optimisation.Step.forward"
    said(step, r"training on 2 x 4 frames.*\. Use --gradient_checkpointing, or --mixed_precision bf16 or fp16, or a sm"
         r"aller --batch_size with more .*steps, or fewer --num_frames, or a smaller --resolution\.$",
         batch_size=2, output_dir=tmp_path / "two")
    again = {"resume_from_checkpoint": "latest", "max_steps": 1, "val_interval": 1, "gradient_checkpointing": True}
    said(step, r"training on 1 x 4 frames.*\. Use --mixed_precision bf16 or fp16, or fewer", **again)
    said("genprop_core.headless_windows.cond.decode_latents", "decoding 4 frames" + without, **again)
    said("genprop_core.offload.Placement.settle", "loading the base, " + without, **again)
    move = Encoder._move
    monkeypatch.setattr(Encoder, "_move", lambda self, device: move(self, device) if device == "cpu" else fail())
    with pytest.raises(GenPropError, match="validating these weights" + without):
        train(**again)


def test_deepspeed_gets_the_runs_own_settings(words, monkeypatch):
    from types import SimpleNamespace

    from accelerate.utils import DeepSpeedPlugin

    from trainer import arguments
    from trainer.setting_up import tell_deepspeed

    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")  # what `accelerate launch` says by default
    args = arguments.parse(words(batch_size=2, gradient_accumulation_steps=3, max_grad_norm=0.25))
    plugin = DeepSpeedPlugin()
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    assert plugin.is_auto("train_micro_batch_size_per_gpu")
    tell_deepspeed(accelerator, args)
    wanted = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3, "gradient_clipping": 0.25}
    assert {name: plugin.get_value(name) for name in wanted} == wanted
    accelerator.state.deepspeed_plugin = None
    tell_deepspeed(accelerator, args)


def test_accelerates_configuration_does_not_override_the_runs_settings(words, monkeypatch, caplog):
    from accelerate.state import AcceleratorState, GradientState

    from trainer import arguments
    from trainer.setting_up import make_accelerator

    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    for configured, wanted, warnings in (("no", "bf16", 0), ("bf16", "bf16", 0), ("bf16", "no", 1)):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", configured)
        made = make_accelerator(arguments.parse(words(gradient_accumulation_steps=2, mixed_precision=wanted)))
        assert (made.gradient_accumulation_steps, made.mixed_precision) == (2, wanted)
        assert sum("own setting counts" in text for text in caplog.messages) == warnings
    assert "configured for bf16, but the run is in --mixed_precision no" in caplog.messages[-1]


def test_the_gradient_norm_is_that_of_all_processes(train, tmp_path, monkeypatch):
    from accelerate import Accelerator

    class Share(torch.Tensor):  # as a DTensor: what one process has of it reads as a number, too
        def full_tensor(self):
            return torch.tensor(5.0)

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda *given: torch.tensor(1.0).as_subclass(Share))
    train(max_steps=1)
    assert read_log(tmp_path / "out" / "log.jsonl")[0]["grad_norm"] == 5.0


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_optimiser(train, tmp_path, monkeypatch):
    from genprop_core.errors import GenPropError
    from trainer import optimisation as module

    loss_terms, calls = module.loss_terms, []

    def steep(unet, taps, adapters, *rest):
        terms = loss_terms(unet, taps, adapters, *rest)
        calls.append(0)  # 0 * infinity in the backward pass of the second step; the loss stays as it is
        extra = (adapters.trainable()[0].sum() * 0).sqrt() if len(calls) > 2 else 0
        return terms | {"total": terms["total"] + extra}

    monkeypatch.setattr(module, "loss_terms", steep)
    with pytest.raises(GenPropError, match=r"gradient norm became nan at step 2 with the clips clip\d, clip\d\. Noth"):
        train(save_steps=1, gradient_accumulation_steps=2)
    kept = list((tmp_path / "out" / "checkpoints").iterdir())
    assert sorted(p.name for p in kept) == ["step_00000000", "step_00000001"]
    for path in kept:
        assert all(p.isfinite().all() for p in load_adapters(path / "adapters.safetensors").adapters.parameters())


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(train, tmp_path, monkeypatch):
    from genprop_core.errors import GenPropError
    from trainer import latent_cache

    read = latent_cache.Entry.read

    def broken(self, *window):
        out = read(self, *window)
        return out | {"target": out["target"] * float("nan")} if self.triple.name == "clip2" else out

    monkeypatch.setattr(latent_cache.Entry, "read", broken)
    with pytest.raises(GenPropError, match=r"loss became nan at step \d with the clip clip2\. Nothing of it was saved"):
        train(save_steps=1)
    for path in (tmp_path / "out" / "checkpoints").iterdir():
        assert all(p.isfinite().all() for p in load_adapters(path / "adapters.safetensors").adapters.parameters())
