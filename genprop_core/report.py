"""comparison.png: rows of pictures over time that say at a glance what happened to a clip."""
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from .errors import GenPropError
from .images import as_frame, write_image

WIDTH = 2000  # of the whole sheet, at most, as long as tiles stay wide enough to read
TILE_SMALLEST, TILE_SMALL_CLIP, TILE_LARGEST = 160, 224, 480
MARGIN, GAP, HEADER = 20, 8, 36
PAPER, INK, FAINT, BORDER, ACCENT = (250, 250, 248), (32, 34, 38), (120, 124, 130), (200, 202, 204), (196, 50, 30)
TINT = np.array([225, 38, 28], dtype=np.float32)


def comparison(rows: dict, path, keyframe_index: int = 0, columns: int = 8, numbers=None) -> None:
    """Writes labelled rows of evenly spaced frames, with the frame numbers on top, as one image.

    rows: label -> uint8 [T,H,W,3]; labels stand at the left, rows come in the order given, all of one T. Three kinds
        are drawn apart:
        a keyframe (label ending in "keyframe", or one picture [H,W,3] or [1,H,W,3]) only in the keyframe's column;
        a mask (label ending in "mask", grey [T,H,W,3], or [T,H,W] as uint8 or float in [0,1], of any size) as a red
        tint over the nearest row above that ends in "source", or as it is where there is none.
    columns: pictures a row at most; the first frame, the last and the keyframe's are always among them (from 3 on).
    numbers: of the frames in their clip, where the rows hold some of it only.

    Small clips are enlarged and large ones reduced, so that the sheet stays near 2000 pixels wide.
    Raises GenPropError for rows that do not fit one another, and for a place that cannot be written.
    """
    shown, frames = _rows(rows, keyframe_index)
    at = frame_indices(frames, columns, keyframe_index)
    height, width = shown[0].pictures.shape[1:3]
    small, large = ImageFont.load_default(size=18), ImageFont.load_default(size=20)
    labels = [_wrapped(row.label, large, 110) for row in shown]
    left = MARGIN + 16 + int(max(large.getlength(line) for label in labels for line in label.split("\n")))
    tile_width, tile_height = _tile(width, height, WIDTH - left - MARGIN, len(at))
    sheet = Image.new("RGB", (left + len(at) * (tile_width + GAP) - GAP + MARGIN,
                              MARGIN + HEADER + len(shown) * (tile_height + GAP) - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, index in enumerate(at):
        x = left + column * (tile_width + GAP)
        number = index if numbers is None else numbers[index]
        text = f"frame {number}" if column == 0 else str(number)
        colour = ACCENT if index == keyframe_index and any(row.still for row in shown) else FAINT
        draw.text((x + tile_width // 2, MARGIN + HEADER - 12), text, colour, small, anchor="ms")
        for number, row in enumerate(shown):
            if row.still and index != keyframe_index:
                continue
            y = MARGIN + HEADER + number * (tile_height + GAP)
            picture = Image.fromarray(row.at(index)).resize((tile_width, tile_height), Image.Resampling.LANCZOS)
            sheet.paste(picture, (x, y))
            draw.rectangle((x - 1, y - 1, x + tile_width, y + tile_height), outline=BORDER)
    for number, (row, label) in enumerate(zip(shown, labels)):
        middle = MARGIN + HEADER + number * (tile_height + GAP) + tile_height // 2
        draw.multiline_text((MARGIN, middle), label, ACCENT if row.still else INK, large, anchor="lm", spacing=5)
    write_image(path, torch.from_numpy(np.asarray(sheet).copy()))


def frame_indices(frames: int, columns: int, keyframe_index: int = 0) -> list[int]:
    """At most `columns` of the indices 0..frames-1, evenly spaced, the nearest moved onto the keyframe's."""
    if columns < 1 or not 0 <= keyframe_index < frames:
        raise GenPropError(f"Expected at least 1 column and a keyframe index of 0 to {frames - 1}, got {columns} and "
                           f"{keyframe_index}. Give others.")
    if columns == 1:
        return [keyframe_index]
    count = min(columns, frames)
    at = [round(i * (frames - 1) / max(1, count - 1)) for i in range(count)]
    if keyframe_index not in at:
        inner = range(1, count - 1) if count > 2 else range(count)
        at[min(inner, key=lambda i: abs(at[i] - keyframe_index))] = keyframe_index
    return at


@dataclass
class _Row:
    label: str
    pictures: np.ndarray | torch.Tensor  # uint8 [T,H,W,3]; of a keyframe [1,H,W,3]; of a mask by itself as given
    still: bool = False
    tint: torch.Tensor | None = None  # a mask as given, drawn over the pictures
    by_itself: bool = False  # a mask without a source

    def at(self, index: int) -> np.ndarray:
        """The picture of a frame, uint8 [H,W,3]. A mask is only here made into numbers: few of its frames are shown."""
        picture = self.pictures[0 if self.still else index]
        if self.by_itself:
            picture = (_opacity(picture) * 255).round().to(torch.uint8)[..., None].expand(-1, -1, 3)
        picture = as_frame(picture)
        if self.tint is None:
            return picture
        tint = _opacity(self.tint[index])[None, None]
        opacity = F.interpolate(tint, picture.shape[:2], mode="bilinear")[0, 0].numpy()[..., None]
        grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        faded = 70 + 0.65 * grey[..., None].repeat(3, axis=2)  # so that red is the mask's alone
        return (faded + (0.75 * TINT + 0.25 * faded - faded) * opacity).round().clip(0, 255).astype(np.uint8)


def _rows(rows: dict, keyframe_index: int) -> tuple[list[_Row], int]:
    """The rows to draw, and the number of frames they share."""
    shown, source = [], None
    for label, given in rows.items():
        pictures = given if isinstance(given, torch.Tensor) else torch.as_tensor(np.asarray(given))
        last = label.split()[-1] if label.split() else ""
        mask = last == "mask" or pictures.ndim == 3 and pictures.shape[-1] != 3
        if mask:
            if pictures.ndim != 3 and not (pictures.ndim == 4 and pictures.shape[-1] == 3):
                raise GenPropError(f"Expected a mask row as [T,H,W] or [T,H,W,3], got {list(pictures.shape)}. "
                                   "Reshape it.")
            shown.append(_Row(label, pictures, by_itself=True) if source is None
                         else _Row(label, source.pictures, tint=pictures))
            continue
        pictures = pictures[None] if pictures.ndim == 3 else pictures
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise GenPropError(f"Expected the row {label!r} as uint8 [T,H,W,3], got {pictures.dtype} "
                               f"{list(pictures.shape)}. Convert it to 0..255 first.")
        still = last == "keyframe" or len(pictures) == 1
        if still and len(pictures) > 1:
            pictures = pictures[keyframe_index:keyframe_index + 1]
        shown.append(_Row(label, pictures, still))
        source = shown[-1] if last == "source" else source
    lengths = {row.label: len(row.pictures if row.tint is None else row.tint) for row in shown if not row.still}
    if len(set(lengths.values())) != 1:
        raise GenPropError(f"Expected rows with one number of frames, got {lengths or 'none'}. "
                           "Give clips of one length.")
    sizes = {row.label: f"{row.pictures.shape[2]}x{row.pictures.shape[1]}" for row in shown}
    if len(set(sizes.values())) != 1:
        raise GenPropError(f"Expected rows of one size, got {sizes}. Resize them first.")
    return shown, next(iter(lengths.values()))


def _opacity(mask: torch.Tensor) -> torch.Tensor:
    """A mask's frame [h,w] or [h,w,3] as float [h,w] in [0,1]."""
    mask = mask.detach().cpu()
    mask = mask.float() / 255 if mask.dtype == torch.uint8 else mask.float()
    return (mask.mean(-1) if mask.ndim == 3 else mask).clamp(0, 1)


def _tile(width: int, height: int, room: int, columns: int) -> tuple[int, int]:
    room = (room + GAP) // columns - GAP
    tile = min(max(width, TILE_SMALL_CLIP), max(room, TILE_SMALLEST), TILE_LARGEST)
    return tile, max(1, round(tile * height / width))


def _wrapped(text: str, font, width: int) -> str:
    lines = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return "\n".join(lines)
