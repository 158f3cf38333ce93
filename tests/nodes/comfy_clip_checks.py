"""What the nodes for whole clips must show inside ComfyUI."""
from fractions import Fraction
from pathlib import Path
from unittest import mock

import comfy_shared as c
import numpy as np
import torch

FRAMES, WINDOW, OVERLAP = 10, 6, 2


def long_source(pack):
    """IMAGE [10,H,W,3] of bytes, from the checks' clip."""
    source = c.clip(pack)[0]
    return ((source[[0, 1, 2, 3, 4, 5, 6, 7, 6, 5]] * 255).round() / 255).contiguous()


def keyframes(pack, *indices, source=None):
    """GENPROP_KEYFRAMES: the source's frames with a grey square, by a chain of nodes."""
    source, made = long_source(pack) if source is None else source, ()
    for index in indices:
        image = source[index : index + 1].clone()
        image[:, 32:64, 32:64] = 0.5
        made = pack.run("GenPropKeyframes", image=image, frame_index=index, others=made)[0]
    return made


def propagate(pack, model=None, source=None, given=None, **changes):
    """(IMAGE, VIDEO, MASK, report, confidence) of a run, without a clean plate unless `changes` say so; its plot and
    overlay are checked here."""
    parts = {**c.mini(pack), "model": model or c.mini(pack)["model"]}
    source = long_source(pack) if source is None else source
    values = {"source": source, "keyframes": given or keyframes(pack, 0), "seed": c.SEED, "steps": c.STEPS,
              "window": WINDOW, "overlap": OVERLAP, "find_shots": False, "clean_plate": False, **changes}  # fmt: skip
    *made, plot, overlay = pack.run("GenPropPropagate", **parts, **values)
    for picture in (plot, overlay):
        assert picture.ndim == 4 and len(picture) == 1 and picture.shape[3] == 3
        assert picture.max() <= 1 and picture.std() > 0.01
    return made


def check_propagate_one_window_is_the_sampler(pack):
    source, keyframe = c.clip(pack)
    given = pack.run("GenPropKeyframes", image=keyframe, frame_index=0)[0]
    image, _, mask, report, sure = propagate(pack, source=source, given=given, window=25, keep_background=False,
                                             look_ahead=False)  # fmt: skip
    latents, features = c.sampler(pack)
    wanted = pack.run("VAEDecode", samples={"samples": latents}, vae=c.mini(pack)["vae"])[0].clamp(0, 1)
    assert image.shape == source.shape and (image - wanted).abs().max() < 0.51 / 255
    soft, _, _ = pack.run("GenPropPredictMask", features=features)
    assert mask.shape == soft.shape and (mask - soft).abs().max() < 0.51 / 255
    assert report.startswith("8 frames in 1 windows") and len(sure) == 8 and all(0 <= s <= 1 for s in sure)


def headless(pack, frames, given, steps, mask=None, **settings):
    """`ClipResult` of the same clip (uint8 [T,3,H,W]) and keyframes without ComfyUI."""
    assets, pipeline, clips = pack.core("assets"), pack.core("pipeline"), pack.core("long_clip")
    model = pipeline.GenProp.from_files(assets.MINI_BASE, assets.MINI_ADAPTERS)
    settings = pipeline.PropagateSettings(
        sampler=pack.core("sampler").SamplerSettings(steps, sigma_min=None), seed=c.SEED, window=WINDOW, width=128,
        height=128, clip=clips.ClipSettings(overlap=OVERLAP, find_shots=False, **settings),
    )  # fmt: skip
    return model.propagate_clip(frames, dict(given), settings, mask)


def as_bytes(image):
    """IMAGE [T,H,W,3] -> uint8 [T,3,H,W]."""
    return (image.movedim(-1, 1) * 255).round().to(torch.uint8)


def check_propagate_agrees_with_headless(pack):
    """Several windows between two keyframes, against the same settings without ComfyUI."""
    image, _, mask, report, sure = propagate(pack, given=keyframes(pack, 9, 0), keep_background=False)
    frames = as_bytes(long_source(pack))
    out = headless(pack, frames, keyframes(pack, 0, 9), c.STEPS)
    assert len(out.windows) > 2 and f"{FRAMES} frames in {len(out.windows)} windows" in report
    assert torch.allclose(torch.tensor(sure), out.confidence, atol=1e-3)
    assert (as_bytes(image).int() - out.frames.int()).abs().float().mean() < 0.01
    assert (mask * 255 - out.mask[:, 0]).abs().max() <= 1.01
    assert (out.frames.int() - frames.int()).abs().float().mean() > 0.5  # it did something


def check_propagate_lays_a_clean_plate(pack):
    """By default, and the same as without ComfyUI."""
    source, given, region = long_source(pack), keyframes(pack, 0), torch.zeros(1, 128, 128)
    region[:, 32:64, 32:64] = 1
    values = {"source": source, "keyframes": given, "mask": region, "seed": c.SEED, "steps": 2, "window": WINDOW,
              "overlap": OVERLAP, "find_shots": False, "keep_background": False}  # fmt: skip
    image = pack.run("GenPropPropagate", **c.mini(pack), **values)[0]
    plain = propagate(pack, source=source, given=given, mask=region, steps=2, keep_background=False)[0]
    out = headless(pack, as_bytes(source), given, 2, region, clean_plate=True)
    assert (as_bytes(image).int() - out.frames.int()).abs().float().mean() < 0.01
    assert (image - plain).abs().mean() > 1e-4


def check_propagate_shows_the_nearest_keyframe(pack):
    """Two keyframes in one window: each frame is conditioned on its own, as without ComfyUI."""
    source, given = long_source(pack)[:5], keyframes(pack, 0, 4)
    bright = (4, given[1][1] * 0.5 + 0.5)  # far from the other, so that it shows which one was seen
    given, options = (given[0], bright), {"steps": 3, "keep_background": False, "colour": "off"}
    image = propagate(pack, source=source, given=given, inner_keyframes=True, **options)[0]
    plain = propagate(pack, source=source, given=given, **options)[0]
    out = headless(pack, as_bytes(source), given, 3, inner_keyframes=True, colour="off")
    assert (as_bytes(image).int() - out.frames.int()).abs().float().mean() < 0.01
    assert (image - plain).abs().mean() > 1e-3


def check_propagate_options_reach_the_engine(pack):
    """Each setting of the node is the engine's own, with the same effect as without ComfyUI."""
    source, given = long_source(pack)[:5], keyframes(pack, 0)
    region = torch.zeros(1, 128, 128)
    region[:, 30:70, 30:70] = 1  # so that what was trained does not decide what there is to compare
    options = {"second_pass": "blur", "colour": "gain", "refine": True, "crop": "off", "mask_mode": "join"}
    image, _, mask, _, _ = propagate(pack, source=source, given=given, steps=2, keep_background=False, mask=region,
                                     width=128, height=128, **options)  # fmt: skip
    plain = propagate(pack, source=source, given=given, steps=2, keep_background=False)[0]
    out = headless(pack, as_bytes(source), given, 2, region, **options)
    assert (as_bytes(image).int() - out.frames.int()).abs().float().mean() < 0.01
    assert (mask * 255 - out.mask[:, 0]).abs().float().mean() < 0.1
    assert (image - plain).abs().mean() > 1e-3  # hiding the region changes what is made


def check_propagate_keeps_the_background(pack):
    """Outside the given mask, grown and feathered, every number is the source's; inside it the result's."""
    source = long_source(pack) * 0.999  # finer than bytes
    mask = torch.zeros(1, 128, 128)
    mask[:, 40:60, 40:60] = 1
    given = dict(given=keyframes(pack, 0), source=source, mask=mask, steps=2)
    kept, before = source.clone(), mask.clone()
    image, _, used, _, _ = propagate(pack, grow=2, feather=3, **given)
    plain = propagate(pack, keep_background=False, **given)[0]
    assert torch.equal(source, kept) and torch.equal(mask, before) and torch.equal(used, mask.expand(FRAMES, -1, -1))
    far = torch.ones(128, 128, dtype=torch.bool)
    far[35:65, 35:65] = False
    assert torch.equal(image[:, far], source[:, far]) and not torch.equal(plain[:, far], source[:, far])
    assert torch.equal(image[:, 38:62, 38:62], plain[:, 38:62, 38:62])
    joined = propagate(pack, mask_mode="join", **given)[2]
    assert (joined >= used - 1e-6).all()


def check_propagate_shows_what_it_replaces(pack):
    """The overlay's tint grows with `grow`, and is on the source, not on the result."""
    mask = torch.zeros(1, 128, 128)
    mask[:, 40:60, 40:60] = 1

    def tinted(grow):
        given = {"source": long_source(pack)[:2] * 0 + 0.5, "keyframes": keyframes(pack, 0), "mask": mask}
        values = {"steps": 1, "seed": c.SEED, "find_shots": False, "grow": grow, "feather": 0}
        *_, overlay = pack.run("GenPropPropagate", **c.mini(pack), **given, **values)
        red = overlay[0, ..., 0] - overlay[0, ..., 1] > 0.1
        grey = ((overlay[0] - 0.5).abs().amax(-1) < 0.02).sum()
        return red.sum() / (red.sum() + grey)

    assert abs(tinted(0) - (20 / 128) ** 2) < 0.004 and abs(tinted(10) - (40 / 128) ** 2) < 0.006


def write_with_audio(path, frames, late=0):
    """A video of uint8 [T,H,W,3] at 12 frames per second with a tone beside it; from the fourth frame on `late`."""
    import av

    with av.open(str(path), "w") as output:
        stream, sound = output.add_stream("libx264", rate=12), output.add_stream("aac", rate=48000, layout="mono")
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for index, image in enumerate(frames.numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = index + late * (index > 3), Fraction(1, 12)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        tone = np.sin(np.arange(40960, dtype=np.float32) / 20)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        output.mux(sound.encode(frame))
        output.mux(sound.encode())


def check_propagate_of_a_video(pack):
    """VIDEO in, VIDEO out: as many frames, the frame rate, and the very packets of its audio."""
    import av
    from comfy_api.latest import InputImpl, Types
    from comfy_execution.graph_utils import ExecutionBlocker

    def facts(path):
        with av.open(path) as media:
            sound = [bytes(p) for p in media.demux(media.streams.audio[0]) if p.size]
        with av.open(path) as media:
            return media.streams.video[0].average_rate, len(list(media.decode(video=0))), sound

    path = pack.folder / "with_audio.mp4"
    write_with_audio(path, (long_source(pack)[:8] * 255).round().to(torch.uint8))
    given = {"given": keyframes(pack, 0), "steps": 1, "window": 25}
    image, video, mask, report, _ = propagate(pack, source=InputImpl.VideoFromFile(str(path)), **given)
    assert "unequal" not in report
    assert isinstance(image, ExecutionBlocker) and "VIDEO output" in image.message and mask.shape == (8, 128, 128)
    assert facts(video.get_stream_source()) == facts(str(path)) and facts(str(path))[0] == 12
    parts = InputImpl.VideoFromFile(str(path)).get_components()
    parts = Types.VideoComponents(images=parts.images, audio=parts.audio, frame_rate=Fraction(12))
    other = propagate(pack, source=InputImpl.VideoFromComponents(parts), **given)[1].get_components()
    assert other.frame_rate == 12 and other.images.shape == (8, 128, 128, 3) and other.audio == parts.audio
    difference = (other.images - video.get_components().images).abs().mean()
    assert difference < 0.03  # once through H.264
    blocked = propagate(pack, source=long_source(pack), **given)[1]
    assert isinstance(blocked, ExecutionBlocker) and "IMAGE output" in blocked.message


def check_a_temporary_video_goes_with_the_last_who_needs_it(pack):
    """It stays for Save Video while ComfyUI keeps the VIDEO or a slice of it, also when it is saved twice."""
    import gc
    import weakref

    import folder_paths
    from comfy_api.latest import InputImpl

    source = pack.folder / "for_temp.mp4"
    write_with_audio(source, (long_source(pack)[:5] * 255).round().to(torch.uint8))
    kept = InputImpl.VideoFromFile(str(source))
    video = propagate(pack, source=kept, given=keyframes(pack, 0), steps=1, window=25)[1]
    path = Path(video.get_stream_source())
    assert path.is_file() and path.parent == Path(folder_paths.get_temp_directory())
    for _ in range(2):
        _save_video(pack, video)
    holders = [video]
    if hasattr(video, "as_trimmed"):  # not in ComfyUI 0.3
        holders.append(video.as_trimmed(0, 0.2, strict_duration=False))
        holders.append(holders[-1].as_trimmed(0, 0.1, strict_duration=False))
    del video
    while holders:
        gc.collect()
        assert path.is_file()
        _save_video(pack, holders[-1])
        gone = weakref.ref(holders.pop(0))
        assert gone() is None
    gc.collect()
    assert not path.exists() and source.is_file()


def _save_video(pack, video):
    """By ComfyUI's own node, into the output folder."""
    import folder_paths
    from comfy.cli_args import args
    from comfy_api.latest import io

    folder = Path(folder_paths.get_output_directory())
    before = set(folder.rglob("*.mp4"))
    codec = {"codec": "auto"} if hasattr(io, "DynamicCombo") else "auto"  # ComfyUI 0.3 has plain lists
    with mock.patch.object(args, "disable_metadata", True):
        pack.core_node("nodes_video", "SaveVideo", video, filename_prefix="genprop", format="mp4", codec=codec)
    (new,) = set(folder.rglob("*.mp4")) - before
    assert new.stat().st_size > 1000


def check_propagate_tells_of_uneven_timing(pack):
    from comfy_api.latest import InputImpl

    path = pack.folder / "uneven.mp4"
    write_with_audio(path, (long_source(pack)[:8] * 255).round().to(torch.uint8), late=6)
    report = propagate(pack, source=InputImpl.VideoFromFile(str(path)), given=keyframes(pack, 0), steps=1)[3]
    assert "frames are shown for unequal times" in report, report


def check_propagate_keeps_size(pack):
    """An odd size is worked on at the nearest one that fits, and given back as it was."""
    source = torch.nn.functional.interpolate(long_source(pack)[:4].movedim(-1, 1), (101, 117)).movedim(1, -1)
    given = pack.run("GenPropKeyframes", image=source[:1], frame_index=0)[0]
    image, _, mask, _, _ = propagate(pack, source=source, given=given, steps=1)
    assert image.shape == source.shape and mask.shape == source.shape[:3]


def check_propagate_refusals(pack):
    source = long_source(pack)
    c.refuses("frame 0, got two", keyframes, pack, 0, 3, 0)
    c.refuses("one keyframe, got 2", pack.run, "GenPropKeyframes", image=source[:2], frame_index=0)
    c.refuses("indices from 0 to 9 .* got 12", propagate, pack, given=((12, source[0].movedim(-1, 0)),))
    half = source[4, ::2, ::2].movedim(-1, 0)
    c.refuses("keyframes of one size, got 128x128 for frame 0, 64x64 for frame 4", propagate, pack,
              given=(*keyframes(pack, 0), (4, half)))  # fmt: skip
    c.refuses("aspect ratio", propagate, pack, given=((0, source[0, :64].movedim(-1, 0)),))
    c.refuses("mask has 3 frames, the video 10", propagate, pack, mask=torch.zeros(3, 128, 128))
    c.refuses("overlap from 1 to 5 .* got 6", propagate, pack, overlap=6)
    c.refuses("multiple of 32 .* got 100", propagate, pack, width=100)
