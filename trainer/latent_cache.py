"""Latents on disk: one file per clip, named by everything it depends on, so that nothing stale is ever read."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from genprop_core.errors import GenPropError
from genprop_core.files import open_tensors, save_tensors, write_json, writing
from genprop_core.images import image_files

from .dataset import Triple, check_length, check_triple, read_chunks, working_size
from .encoder import CHUNK, Encoder

log = logging.getLogger(__name__)
FORMAT, VERSION = "genprop-latents", "2"  # 2: HD video without a colour tag is read as BT.709
MAKE_SPACE = (
    "Make space, or choose another --cache_dir, then --resume_from_checkpoint latest. What is encoded is kept."
)


@dataclass(frozen=True)
class Entry:
    """A checked clip. size: (height, width) in pixels that it is trained at; path: of its latents (None: no cache)."""

    triple: Triple
    path: Path | None
    frames: int
    size: tuple[int, int]

    def read(self, start: int, stop: int, corrupted: bool) -> dict[str, torch.Tensor]:
        """Frames start..stop as `Encoder.encode` gives them; the hidden source only where it is wanted."""
        with open_tensors(self.path) as file:
            names = [k for k in file.keys() if k != "corrupt" or corrupted]
            return {k: file.get_slice(k)[start:stop] for k in names}


class LatentCache:
    """A folder of encoded clips that several processes and runs may fill and read at the same time.

    A clip's file name is a hash of its three videos' contents, the size, and the encoder's settings: a changed clip
    gets a new file. The folder belongs to one base. Raises GenPropError when it was made with another, and when it
    cannot be written.
    """

    def __init__(self, folder, encoder: Encoder, base_name: str, resolution: tuple[int, ...], multiple: int):
        self.folder, self.encoder, self.resolution, self.multiple = Path(folder), encoder, resolution, multiple
        note = self.folder / "cache.json"
        if note.exists():
            known = json.loads(note.read_text(encoding="utf-8"))
            if known.get("vae_and_clip") != encoder.digest:
                raise GenPropError(
                    f"The latent cache {folder} was made with another base ({known.get('base')}, VAE and CLIP "
                    f"{known.get('vae_and_clip')}; this run: {base_name}, {encoder.digest}). "
                    "Choose another --cache_dir, or delete that folder."
                )
        else:
            with writing("The latent cache", self.folder, MAKE_SPACE):
                write_json(note, {"format": FORMAT, "base": base_name, "vae_and_clip": encoder.digest})

    def path(self, triple: Triple) -> Path:
        digest = hashlib.sha256()
        for path in triple.paths:
            digest.update(content_digest(path).encode())
        encoder = self.encoder
        digest.update(
            f"{VERSION}/{triple.name}/{self.resolution}/{self.multiple}/{encoder.digest}/{encoder.corrupt}/"
            f"{encoder.dtype}{'/computed in bfloat16' * encoder.bfloat16}".encode()
        )
        return self.folder / f"{digest.hexdigest()[:32]}.safetensors"

    def fill(self, triples: list[Triple], num_frames: int, progress=None) -> list[Entry]:
        """The clips' entries; what is not there yet is encoded. progress(done, total) is called after every clip.

        Every clip is checked before the first is encoded.
        """
        entries, missing = [], set()
        for triple in triples:
            path = self.path(triple)
            facts = _facts(path)
            if facts is None:
                checked = check_triple(triple, num_frames)
                missing.add(path)
                facts = checked.frames, *working_size(checked.width, checked.height, self.resolution, self.multiple)
            frames, height, width = facts
            check_length(triple, frames, num_frames)
            entries.append(Entry(triple, path, frames, (height, width)))
        if missing:
            with self.encoder:
                for done, entry in enumerate((e for e in entries if e.path in missing), 1):
                    self._encode(entry)
                    if progress is not None:
                        progress(done, len(missing))
        return entries

    def _encode(self, entry: Entry):
        name = entry.triple.name
        pieces = [self.encoder.encode(piece, name) for piece in read_chunks(entry.triple, entry.size, CHUNK)]
        tensors = {k: torch.cat([p[k] for p in pieces]) for k in pieces[0]}
        facts = {
            "format": FORMAT,
            "clip": name,
            "frames": str(entry.frames),
            "height": str(entry.size[0]),
            "width": str(entry.size[1]),
        }
        with writing(f"The latents of {name}", self.folder, MAKE_SPACE):
            save_tensors(entry.path, tensors, facts)


def without_cache(triples: list[Triple], num_frames: int, resolution, multiple: int) -> list[Entry]:
    """Checked clips whose windows are read and encoded anew at every step."""
    facts = [check_triple(triple, num_frames) for triple in triples]
    return [
        Entry(t, None, f.frames, working_size(f.width, f.height, resolution, multiple)) for t, f in zip(triples, facts)
    ]


def _facts(path: Path) -> tuple[int, int, int] | None:
    """(frames, height, width) of a cache file; None when there is none, or it is damaged (which is logged)."""
    if not path.exists():
        return None
    try:
        with open_tensors(path) as file:
            meta = file.metadata()
            return tuple(int(meta[k]) for k in ("frames", "height", "width"))
    except (GenPropError, KeyError, TypeError) as error:
        log.warning("The cached latents in %s are damaged and are made again (%s).", path, error)
        return None


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's images with their names."""
    digest = hashlib.sha256()
    for file in image_files(path) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(file.name.encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
