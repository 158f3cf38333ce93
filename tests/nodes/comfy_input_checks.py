"""What the nodes take, and what they refuse in one line, inside ComfyUI."""

import json
from pathlib import Path

import torch
from comfy_shared import apply, clip, condition, encode, ksampler, mini, refuses, sampler


def check_refusals(pack):
    source, keyframe = clip(pack)
    refuses(r"at least 2 frames, got 1", encode, pack, source=source[:1])
    refuses(r"aspect ratio \(128x128\), got 64x128", encode, pack, keyframe=keyframe[:, :, :64])
    refuses(r"one keyframe, got 2", encode, pack, keyframe=source[:2])
    refuses(r"index from 0 to 7 .* got 8", encode, pack, keyframe_index=8)
    refuses(r"mask has 3 frames, the video 8", encode, pack, mask=torch.zeros(3, 128, 128))
    refuses(r"multiple of 32 .* got 100", encode, pack, width=100)
    refuses(r"mask has 3 frames, the video 8", pack.run, "GenPropComposite", source=source, result=source,
            mask=torch.zeros(3, 128, 128))  # fmt: skip
    refuses("features, or model, condition and samples; got no condition, no samples", pack.run, "GenPropPredictMask",
            model=mini(pack)["model"])  # fmt: skip


def check_a_checkpoint_without_clip_vision_is_refused(pack):
    refuses(r"CLIP_VISION of an SVD checkpoint, but the file that was loaded has none", encode, pack, clip_vision=None)


def check_a_condition_for_another_size_is_refused(pack):
    model, positive, negative, latent = apply(pack)
    wrong = {"samples": torch.zeros(8, 4, 16, 24)}
    refuses(r"8 frames at 128x128.* got 8 at 192x128", ksampler, pack, model, positive, negative, wrong)
    few = {"samples": torch.zeros(4, 4, 16, 16)}
    refuses(r"8 frames at 128x128.* got 4 at 128x128", ksampler, pack, model, positive, negative, few)
    refuses(r"latent of 8 frames at 128x128 .* got 4 frames", pack.run, "GenPropPredictMask", condition=condition(pack),
            model=model, samples=few)  # fmt: skip
    assert torch.equal(ksampler(pack, model, positive, negative, latent), sampler(pack)[0])


def check_a_model_that_is_not_svd_is_refused(pack):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
              "channel_mult": [1, 2], "transformer_depth": [0, 0], "transformer_depth_middle": 0, "context_dim": 32,
              "transformer_depth_output": [0] * 4, "use_spatial_transformer": True, "legacy": False,
              "adm_in_channels": None, "dtype": torch.float32, "use_temporal_attention": False,
              "use_temporal_resblock": False}  # fmt: skip
    other = comfy.supported_models.SD15(config).get_model({}, "")
    patcher = comfy.model_patcher.ModelPatcher(other, torch.device("cpu"), torch.device("cpu"))
    for node in ("GenPropSampler", "GenPropApply"):
        refuses("Stable Video Diffusion MODEL, got BaseModel", pack.run, node, model=patcher,
                condition=condition(pack))  # fmt: skip


def check_adapters_that_do_not_fit_are_refused(pack):
    import logging

    adapters = pack.own("memory").open_adapters(pack.folder / "other_width.safetensors")
    refuses(r"widths \[32, 64, 64\], this base has \[64, 64, 128\]", pack.own("memory").check_model,
            mini(pack)["model"], adapters)  # fmt: skip
    refuses(r"CLIP_VISION with 32 numbers .*other_width\.safetensors, got 64\. Choose adapters", encode, pack,
            adapters=adapters)  # fmt: skip
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger(pack.name).addHandler(handler)
    try:
        near = pack.own("memory").open_adapters(pack.folder / "other_weights.safetensors")
        pack.own("memory").check_model(mini(pack)["model"], near)  # a fine-tuned base: a warning only
    finally:
        logging.getLogger(pack.name).removeHandler(handler)
    assert any("another base of the same widths" in r.getMessage() for r in records)


def check_files_that_are_no_adapters_are_refused(pack):
    folder = pack.folder / "models" / "genprop"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.safetensors").write_text("not a safetensors file")
    refuses("cannot be read as one", pack.run, "GenPropLoadAdapters", adapters_name="notes.safetensors")
    (folder / "base.safetensors").write_bytes((pack.folder / "base.safetensors").read_bytes())
    refuses("Expected GenProp adapters, but .* format 'genprop-mini-base'", pack.run, "GenPropLoadAdapters",
            adapters_name="base.safetensors")  # fmt: skip
    refuses("there is none", pack.run, "GenPropLoadAdapters", adapters_name="gone.safetensors")
    (folder / "mine.safetensors").write_bytes((pack.folder / "adapters.safetensors").read_bytes())
    options = pack.nodes.NODE_CLASS_MAPPINGS["GenPropLoadAdapters"].define_schema().inputs[0].options
    assert options[0] == "mini (bundled)" and "mine.safetensors" in options
    pack.run("GenPropLoadAdapters", adapters_name="mine.safetensors")


def check_a_tiny_vae_of_another_scale_is_refused(pack):
    vae = mini(pack)["vae"]
    scale = vae.first_stage_model.vae_scale
    try:
        vae.first_stage_model.vae_scale = torch.nn.Parameter(torch.tensor(1.0))
        refuses("tiny VAE with scale 1 instead of 0.18215", encode, pack)
    finally:
        vae.first_stage_model.vae_scale = scale


def check_schemas(pack):
    """Ids are stable for ever; every input and output says what it is."""
    ids = [k for k in pack.nodes.NODE_CLASS_MAPPINGS if k.startswith("GenProp")]
    assert ids == ["GenPropLoadAdapters", "GenPropLoadMini", "GenPropSampleClip", "GenPropEncodeCondition",
                   "GenPropSampler", "GenPropApply", "GenPropPredictMask", "GenPropComposite", "GenPropKeyframes",
                   "GenPropPropagate"]  # fmt: skip
    for name in ids:
        schema = pack.nodes.NODE_CLASS_MAPPINGS[name].define_schema()
        assert schema.category == "GenProp" and schema.description
        assert all(i.tooltip for i in schema.inputs) and all(o.tooltip for o in schema.outputs), name


CHOSEN = {  # what a template sets on purpose, because of its clip or its base; all else is the default
    "long_clip": {"width", "height", "grow", "feather"},
    "object_removal_mini": {"steps", "max_guidance"},
    "object_removal_svd": {"width", "height", "grow", "feather"},
    "track_object": {"width", "height", "task"},
    "two_keyframes": {"frame_index", "window", "steps", "max_guidance"},
}


def check_workflows_save_the_defaults(pack):
    """A template must not bring back an old default."""
    for file in sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json")):
        for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]:
            if not node["type"].startswith("GenProp"):
                continue
            values = iter(node["widgets_values"])
            schema = pack.nodes.NODE_CLASS_MAPPINGS[node["type"]].define_schema()
            changed = set()
            for item in (i for i in schema.inputs if hasattr(i, "default")):
                value = next(values, item.default)  # the editor gives what came later its default
                if value != item.default and item.id not in ("adapters_name", *CHOSEN.get(file.stem, ())):
                    changed.add(item.id)
                if getattr(item, "control_after_generate", None):
                    next(values, None)
            assert not changed, (file.stem, node["type"], changed)
            assert next(values, None) is None, (file.stem, node["type"])


def check_the_editor_steps_by_sizes_that_are_taken(pack):
    """It brings what is typed to a multiple of the step."""
    multiple = mini(pack)["adapters"].size_multiple
    for name in ("GenPropEncodeCondition", "GenPropPropagate"):
        inputs = pack.nodes.NODE_CLASS_MAPPINGS[name].define_schema().inputs
        assert [i.step for i in inputs if i.id in ("width", "height")] == [multiple] * 2


def check_the_size_follows_the_sources_aspect(pack):
    size = pack.own("encoding").working_size
    assert size(1080, 1920, 0, 1024, 64) == (576, 1024) and size(1080, 1920, 576, 0, 64) == (576, 1024)
    assert size(1080, 1920, 0, 0, 64) == (1088, 1920) and size(1080, 1920, 512, 512, 64) == (512, 512)
    refuses(r"aspect ratio \(128x128\), got 256x128: .* squeezed\. Use 192x192\.", encode, pack, width=256, height=128)
    unsqueezed = pack.own("encoding").unsqueezed_size
    assert unsqueezed(1080, 1920, 64, 128, 32) == (64, 128)  # no size of that area is nearer
    assert unsqueezed(1080, 1920, 0, 0, 64) == (1088, 1920) and unsqueezed(270, 480, 0, 0, 64) == (256, 448)
    for given in ((0, 512), (256, 0)):  # 512x256 would be squeezed
        assert unsqueezed(270, 480, *given, 64) == (256, 448)
    small = torch.zeros(2, 90, 144, 3)
    assert encode(pack, source=small, keyframe=small[:1]).segments[0].condition.source.shape[-2:] == (12, 20)
    assert encode(pack, width=96).segments[0].condition.source.shape[-2:] == (12, 12)


def check_a_name_does_not_lead_out_of_the_adapters_folder(pack):
    outside = pack.folder / "adapters.safetensors"
    for name in (str(outside), f"../../{outside.name}", f"../../../../../../../..{outside}"):
        refuses("there is none", pack.run, "GenPropLoadAdapters", adapters_name=name)


def check_a_keyframe_that_lies_the_other_way_is_told_so(pack):
    tall = torch.zeros(1, 96, 64, 3)
    refuses(r"\(96x64\), got 64x96\. .* it is stored turned: export it again", encode, pack,
            source=torch.zeros(8, 64, 96, 3), keyframe=tall)  # fmt: skip


def check_a_linked_adapters_name_has_a_stamp(pack):
    """Core asks for it without the value. It stays while the files do, so that nothing runs again."""
    import asyncio

    import execution

    folder = pack.folder / "models" / "genprop"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "stamped.safetensors"
    file.write_bytes((pack.folder / "adapters.safetensors").read_bytes())

    def stamp():
        node = {"class_type": "GenPropLoadAdapters", "inputs": {"adapters_name": ["2", 0]}}
        prompt = type("Prompt", (), {"get_node": lambda self, key: node})()
        return asyncio.run(execution.IsChangedCache("prompt", prompt, None).get("1"))

    first = stamp()
    assert isinstance(first, list) and stamp() == first, first  # it is a NaN after an error
    file.write_bytes(b"other")
    assert stamp() != first
    file.unlink()


def check_grey_pictures(pack):
    """Of one channel, as nodes that read depth or masks make them: taken as grey."""
    source, keyframe = (picture[..., :1] for picture in clip(pack))
    grey, wanted = (encode(pack, source=s, keyframe=k).segments[0].condition
                    for s, k in ((source, keyframe), (source.expand(-1, -1, -1, 3), keyframe.expand(-1, -1, -1, 3))))
    assert torch.equal(grey.source, wanted.source) and torch.equal(grey.image_latents, wanted.image_latents)
    whole = pack.run("GenPropComposite", source=source, result=source, mask=torch.ones(1, 128, 128))[0]
    assert whole.shape == (8, 128, 128, 3)
