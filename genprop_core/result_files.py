"""The files of a finished clip in its output folder: all of them at once, or none."""

import os
import shutil
import tempfile
from pathlib import Path

from .clip_files import ClipFiles, keyframe_paths
from .clip_input import at_size
from .confidence_plot import confidence_plot
from .errors import GenPropError
from .files import write_json
from .frames import as_bytes
from .long_clip import ClipResult, ClipSettings
from .manifest import PATHS
from .mask_refine import overlay
from .report import comparison
from .video_write import write_video, write_with_sound

WRITTEN = ("result.mp4", "mask.mp4", "overlay.mp4", "comparison.png", "confidence.png", "metrics.json")


def check_inputs_stay(arguments) -> None:
    """Raises GenPropError where what a clip is made from would be replaced by what is written to arguments.out."""
    named = [(f"--{name.replace('_', '-')}", getattr(arguments, name)) for name in PATHS]
    named += [("--keyframe", path) for _, path in keyframe_paths(arguments.keyframe)]
    # a folder of images would get two more of them
    written = [p for p in (arguments.out, *(arguments.out / name for name in WRITTEN)) if p.exists()]
    for option, path in named:
        if path is not None and Path(path).exists() and any(os.path.samefile(path, there) for there in written):
            raise GenPropError(
                f"Expected --out to leave what is read alone, but {path} ({option}) would be replaced by the result. "
                "Choose another --out."
            )


def write_result(
    out: Path, files: ClipFiles, result: ClipResult, clip: ClipSettings, metrics: dict, lossless: bool = False
) -> list[str]:
    """result.mp4, comparison.png, confidence.png, metrics.json; with a mask also mask.mp4 and overlay.mp4. Returns what
    the user should know of them, one line each, which is added to the notes among the metrics.

    lossless: of result.mp4 and mask.mp4, so that what is outside the mask can be compared with the source.
    Makes every file in a hidden folder beside the others, then moves them in: old output stays until then.
    Raises GenPropError when they cannot be written; the old output is all there then. What was made and cannot be moved
    to its place stays in that folder, which the error names.
    """
    staging, kept = None, None
    try:
        staging = Path(tempfile.mkdtemp(prefix=".making-", dir=out))
        notes = _videos(staging, files, result, clip, lossless)
        _pictures(staging, files, result)
        metrics = metrics | {"notes": metrics["notes"] + notes}
        write_json(staging / "metrics.json", metrics)
        kept = staging
        _move_in(sorted(staging.iterdir(), key=lambda f: (f.name == "metrics.json", f.name)), out)  # it says: finished
        kept = None
        return notes
    except OSError as error:
        there = "" if kept is None else f" The new ones are in {kept}: move them yourself."
        raise GenPropError(
            f"Expected to write the result to {out}, but that failed ({error.strerror or error}). Earlier files there "
            f"are as they were.{there} Make space and close programs that show them, or choose another --out."
        ) from None
    finally:
        if staging is not None and kept is None:
            shutil.rmtree(staging, ignore_errors=True)


def _move_in(made: list[Path], out: Path) -> None:
    """Moves the files into `out` in the place of earlier ones; if one cannot be moved, all are where they were."""
    earlier = Path(tempfile.mkdtemp(prefix=".earlier-", dir=out))
    try:
        for file in made:
            if (out / file.name).is_file():
                os.replace(out / file.name, earlier / file.name)
            os.replace(file, out / file.name)
    except BaseException:
        for file in made:
            if not file.exists():
                os.replace(out / file.name, file)
            if (earlier / file.name).exists():
                os.replace(earlier / file.name, out / file.name)
        earlier.rmdir()
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _videos(folder: Path, files: ClipFiles, result: ClipResult, clip: ClipSettings, lossless: bool) -> list[str]:
    """Frame by frame, so that they need no memory beside the frames that are there. Returns notes for the user."""
    video, pictures = files.video, result.frames.movedim(1, -1)  # [T,3,H,W] -> [T,H,W,3]
    notes = write_with_sound(folder / "result.mp4", lambda: pictures, video.fps, video.audio_path, lossless=lossless,
                             pixel_aspect=video.pixel_aspect)  # fmt: skip
    if result.mask is None:
        return notes
    grey = (mask[0][..., None].expand(-1, -1, 3) for mask in result.mask)  # [1,H,W] -> [H,W,3]
    write_video(folder / "mask.mp4", grey, video.fps, lossless=lossless, pixel_aspect=video.pixel_aspect)
    shown = (
        overlay(frame[None], mask[None], clip.grow, clip.feather)[0].movedim(0, -1)
        for frame, mask in zip(files.frames, result.mask)
    )
    write_video(folder / "overlay.mp4", shown, video.fps, pixel_aspect=video.pixel_aspect)
    return notes


def _pictures(folder: Path, files: ClipFiles, result: ClipResult) -> None:
    """comparison.png, whose keyframe is the first one, and confidence.png."""
    pictures = result.frames.movedim(1, -1)  # [T,3,H,W] -> [T,H,W,3]
    index, keyframe = next(iter(files.keyframes.items()))
    key = as_bytes(at_size(keyframe, files.frames))[0].movedim(0, -1)
    rows = {"source": files.video.frames, "keyframe": key, "result": pictures}
    if result.mask is not None:
        step = max(1, pictures.shape[1] // 270)  # as fine as a tile of the sheet shows it
        rows["mask"] = result.mask[:, 0, ::step, ::step]
    if files.truth is not None:
        rows["truth"] = as_bytes(files.truth[0]).movedim(1, -1)
    comparison(rows, path=folder / "comparison.png", keyframe_index=index)
    confidence_plot(result, files.keyframes, folder / "confidence.png")
