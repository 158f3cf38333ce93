"""Cancel while a whole clip is made: heard at every step, frame by frame before and after, and nothing is left."""
from pathlib import Path

import comfy_shared as c
import torch
from comfy_clip_checks import FRAMES, keyframes, long_source, propagate, write_with_audio


def check_propagate_cancel(pack):
    """Cancel comes by the progress bar, after every step; nothing of the run is left."""
    import comfy.model_management as mm
    import comfy.utils

    model, seen = c.mini(pack)["model"], []
    options, wanted = repr(model.model_options), c.sampler(pack)[0]

    def hook(value, total, preview, node_id=None, **_):
        seen.append((value, total))
        if value == c.STEPS + 1:  # the second window's first step
            raise mm.InterruptProcessingException()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        propagate(pack)
        raise AssertionError("was not cancelled")
    except mm.InterruptProcessingException:
        pass
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    steps = [(v, t) for v, t in dict.fromkeys(seen) if v]  # said again while the object is followed between windows
    assert [v for v, _ in steps] == list(range(1, c.STEPS + 2)), seen
    assert all(v < t and t % c.STEPS == 0 for v, t in steps)
    assert repr(model.model_options) == options and not model.callbacks.get("on_cleanup")
    assert torch.equal(c.sampler(pack)[0], wanted)


def check_propagate_cancel_while_the_plate_is_laid(pack):
    """By the flag that the Cancel button sets, once the last step is done: the frame at work is the last."""
    import comfy.model_management as mm
    import comfy.utils

    passes, seen = 4 * FRAMES, []  # three of them the plate's

    def hook(value, total, preview, node_id=None, **_):
        seen.append((value, total))
        if total == passes:
            mm.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        propagate(pack, clean_plate=True)
        raise AssertionError("was not cancelled")
    except mm.InterruptProcessingException:
        pass
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        mm.interrupt_current_processing(False)
    assert seen[-1] == (0, passes) and seen[-2][0] == seen[-2][1], "the bar was full, and starts once more"


def check_propagate_cancel_while_a_video_is_read_or_written(pack):
    """By the flag alone: no step is made yet, or all of them are, and no file is left."""
    import comfy.model_management as mm
    import comfy.utils
    import folder_paths
    from comfy_api.latest import InputImpl

    path, seen = pack.folder / "to_cancel.mp4", []
    write_with_audio(path, (long_source(pack)[:8] * 255).round().to(torch.uint8))
    given = {"source": InputImpl.VideoFromFile(str(path)), "given": keyframes(pack, 0), "steps": 1, "window": 25}

    def written():
        return sorted(Path(folder_paths.get_temp_directory()).glob("genprop-*"))

    def cancelled():
        try:
            propagate(pack, **given)
            raise AssertionError("was not cancelled")
        except mm.InterruptProcessingException:
            pass
        finally:
            mm.interrupt_current_processing(False)

    def hook(value, total, preview, node_id=None, **_):
        seen.append((value, total))
        if value == total == 8:  # the last frame is finished
            mm.interrupt_current_processing()

    before = written()
    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        mm.interrupt_current_processing()
        cancelled()
        assert not seen
        cancelled()
        assert seen[-1] == (8, 8) and written() == before
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
