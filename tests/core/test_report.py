"""comparison.png: the right frames stand in the right places, large enough to read."""
import pytest
import torch

from genprop_core import report
from genprop_core.errors import GenPropError
from genprop_core.report import comparison, frame_indices
from genprop_core.video_io import read_image


def clip(red, frames=10, height=32, width=48):
    """Every frame one colour that tells the clip (red) and the frame (green), uint8 [T,H,W,3]."""
    green = torch.arange(frames).mul(10).view(frames, 1, 1, 1)
    colour = torch.cat([torch.full_like(green, red), green, torch.full_like(green, 77)], dim=-1)
    return colour.to(torch.uint8).expand(frames, height, width, 3).contiguous()


def sheet(tmp_path, rows, **options):
    comparison(rows, path=tmp_path / "comparison.png", **options)
    return read_image(tmp_path / "comparison.png")


def place(image, colour):
    """(left, top, right, bottom) of all pixels of exactly one colour, None where there are none."""
    found = (image == torch.tensor(colour, dtype=torch.uint8)).all(-1).nonzero()
    if not len(found):
        return None
    (top, left), (bottom, right) = found.min(0).values.tolist(), found.max(0).values.tolist()
    return left, top, right + 1, bottom + 1


def test_frames_stand_in_time_from_left_to_right_and_rows_from_top_to_bottom(tmp_path):
    image = sheet(tmp_path, {"source": clip(20), "result": clip(120), "truth": clip(220)}, columns=4)
    expected = frame_indices(10, 4)
    grid = [[place(image, (red, 10 * t, 77)) for t in expected] for red in (20, 120, 220)]
    size = {(right - left, bottom - top) for row in grid for left, top, right, bottom in row}
    assert len(size) == 1, "every tile has one size"
    for row in grid:
        assert len({top for _, top, _, _ in row}) == 1
        assert all(a[2] < b[0] for a, b in zip(row, row[1:])), "left to right, with a gap"
    for column in zip(*grid):
        assert len({left for left, *_ in column}) == 1
        assert all(a[3] < b[1] for a, b in zip(column, column[1:])), "top to bottom, with a gap"
    for t in set(range(10)) - set(expected):
        assert place(image, (20, 10 * t, 77)) is None


@pytest.mark.parametrize("keyframe", ["whole clip", "one frame", "picture"])
@pytest.mark.parametrize("index", [0, 4, 9])
def test_the_keyframe_stands_in_its_column_only(tmp_path, keyframe, index):
    key = clip(120, frames=1)[0] + torch.tensor([0, 201, 0], dtype=torch.uint8)
    given = {"whole clip": key.expand(10, -1, -1, -1), "one frame": key[None], "picture": key}[keyframe]
    image = sheet(tmp_path, {"source": clip(20), "keyframe": given}, keyframe_index=index)
    left, _, right, _ = place(image, (120, 201, 77))
    above = place(image, (20, 10 * index, 77))
    assert (left, right) == (above[0], above[2])


@pytest.mark.parametrize("kind", ["grey frames", "uint8", "float", "latent size"])
def test_a_mask_is_a_red_tint_on_the_source(tmp_path, kind):
    mask = torch.zeros(10, 32, 48)
    mask[:, :16, :24] = 1
    given = {
        "grey frames": (mask * 255).to(torch.uint8)[..., None].expand(-1, -1, -1, 3), "uint8": (mask * 255).byte(),
        "float": mask, "latent size": mask[:, ::8, ::8],
    }[kind]
    source = torch.full((10, 32, 48, 3), 100, dtype=torch.uint8)
    image = sheet(tmp_path, {"source": source, "predicted mask": given}, columns=2).int()
    left, top, right, bottom = place(image, (100, 100, 100))
    height = bottom - top
    tile = image[bottom + 8:bottom + 8 + height, left:left + (right - left - 8) // 2]
    quarter = (tile.shape[0] // 4, tile.shape[1] // 4)
    red, green, blue = tile[quarter].tolist()
    assert red > green + 80 and red > blue + 80
    for y, x in ((3, 3), (3, 1), (1, 3)):
        pixel = tile[y * quarter[0], x * quarter[1]]
        assert pixel.max() == pixel.min(), "grey outside the mask"


def test_each_mask_tints_the_source_above_it_and_none_stays_grey(tmp_path):
    white, black = torch.full((4, 32, 48, 3), 255, dtype=torch.uint8), torch.zeros(4, 32, 48, 3, dtype=torch.uint8)
    nothing = torch.zeros(4, 32, 48)
    image = sheet(tmp_path, {"0 source": white, "0 mask": nothing, "1 source": black, "1 mask": nothing}, columns=1)
    faded = [tuple(image[y, image.shape[1] // 2].tolist()) for y in range(image.shape[0])]
    bright, dark = (236, 236, 236), (70, 70, 70)
    assert faded.count(bright) > 100 and faded.count(dark) > 100 and faded.index(bright) < faded.index(dark)
    half = torch.full((4, 32, 48), 0.5)
    image = sheet(tmp_path, {"result": clip(20, 4), "mask": half}, columns=1)
    assert place(image, (128, 128, 128)) is not None


@pytest.mark.parametrize("with_source", [True, False])
def test_a_long_mask_is_read_at_the_frames_that_are_shown_only(tmp_path, monkeypatch, with_source):
    frames, seen, opacity = 500, [], report._opacity
    monkeypatch.setattr(report, "_opacity", lambda mask: seen.append(tuple(mask.shape)) or opacity(mask))
    mask = torch.zeros(frames, 32, 48, dtype=torch.uint8)
    mask[-1] = 255
    source = {"source": torch.full((1, 1, 1, 1), 9, dtype=torch.uint8).expand(frames, 32, 48, 3)} if with_source else {}
    image = sheet(tmp_path, source | {"result": clip(20, 1, 32, 48).expand(frames, -1, -1, -1), "mask": mask})
    assert seen == [(32, 48)] * 8
    if not with_source:
        assert place(image, (255, 255, 255)) is not None, "the last frame is shown"


@pytest.mark.parametrize("height, width", [(16, 16), (128, 128), (240, 432), (540, 972), (1080, 1920), (640, 360)])
def test_small_and_large_clips_are_readable(tmp_path, height, width):
    frames = torch.full((8, height, width, 3), 30, dtype=torch.uint8)
    image = sheet(tmp_path, {"source": frames, "predicted mask": torch.zeros(8, 2, 2)})
    left, top, right, bottom = place(image, (30, 30, 30))
    tile = (right - left - 7 * 8) / 8
    assert 160 <= tile <= 480 and image.shape[1] <= 2000
    assert (bottom - top) / tile == pytest.approx(height / width, rel=0.02), "nothing is stretched"


def test_labels_and_frame_numbers_are_written(tmp_path):
    image = sheet(tmp_path, {"source": clip(20), "result": clip(120)}, columns=3).int()
    left, top, _, bottom = place(image, (20, 0, 77))
    dark = image.sum(-1) < 450
    assert dark[top:bottom, :left - 2].any(), "a label beside the row"
    assert dark[:top - 2, left:].any(), "a number above the column"
    other = sheet(tmp_path, {"source": clip(20), "truth": clip(120)}, columns=3).int()
    assert other.shape == image.shape and not torch.equal(other, image), "the label says which row it is"
    assert torch.equal(other[:, left:], image[:, left:])


def test_some_frames_of_a_clip_are_shown_like_the_whole(tmp_path):
    rows, at = {"source": clip(40), "result": clip(90)}, frame_indices(10, 4)
    comparison(rows, tmp_path / "whole.png", columns=4)
    comparison({label: frames[at] for label, frames in rows.items()}, tmp_path / "some.png", numbers=at)
    assert read_image(tmp_path / "some.png").equal(read_image(tmp_path / "whole.png"))


def test_frame_indices_are_even_and_hold_the_keyframe():
    assert frame_indices(8, 8) == list(range(8))
    assert frame_indices(80, 8) == [0, 11, 23, 34, 45, 56, 68, 79]
    assert frame_indices(3, 8) == [0, 1, 2]
    assert frame_indices(100, 3, keyframe_index=60) == [0, 60, 99]
    assert frame_indices(100, 2, keyframe_index=60) == [0, 60]
    assert frame_indices(100, 1, keyframe_index=60) == [60]
    for frames in range(2, 40):
        for columns in range(3, 12):
            for index in range(frames):
                at = frame_indices(frames, columns, index)
                assert at == sorted(set(at)) and index in at and len(at) == min(columns, frames)
                assert at[0] == 0 and at[-1] == frames - 1 and max(at) < frames


def test_rows_that_do_not_fit_are_named(tmp_path):
    def message(rows, **options):
        with pytest.raises(GenPropError) as raised:
            comparison(rows, path=tmp_path / "comparison.png", **options)
        assert not (tmp_path / "comparison.png").exists()
        return str(raised.value)

    assert "one number of frames, got {'source': 10, 'result': 9}" in message({"source": clip(1), "result": clip(2, 9)})
    assert "one size, got {'source': '48x32', 'result': '32x48'}" in message(
        {"source": clip(1), "result": clip(2, 10, 48, 32)})
    assert "row 'result' as uint8 [T,H,W,3], got torch.float32" in message(
        {"source": clip(1), "result": clip(2).float()})
    assert "one number of frames, got none" in message({})
    assert "keyframe index of 0 to 9, got 8 and 10" in message({"source": clip(1)}, keyframe_index=10)
    assert "keyframe index of 0 to 9, got 8 and 12" in message(
        {"source": clip(1), "keyframe": clip(2)}, keyframe_index=12)
    assert "at least 1 column" in message({"source": clip(1)}, columns=0)


def test_rows_stay_as_they_were(tmp_path):
    rows = {"source": clip(20), "keyframe": clip(30), "mask": torch.rand(10, 4, 6)}
    before = {name: row.clone() for name, row in rows.items()}
    sheet(tmp_path, rows)
    assert all(torch.equal(rows[name], before[name]) for name in rows)
    as_arrays = {name: row.numpy() for name, row in rows.items()}
    assert torch.equal(sheet(tmp_path, as_arrays), sheet(tmp_path, rows))
