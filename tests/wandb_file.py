"""Reads what an offline run of W&B left on disk: protobuf records in LevelDB's log format. W&B has no reader of it."""

import json
import struct
from pathlib import Path
from typing import NamedTuple

HEADER, BLOCK = struct.Struct("<4sHB"), 32768  # magic, number, version; then blocks of chunks
CHUNK = struct.Struct("<IHB")  # checksum, length, type
FULL, LAST = 1, 4  # types that end a record; the others are its first and middle chunks


class Run(NamedTuple):
    """rows: as they were logged, one for each step, which is "_step"; names of nested values are joined by "/"."""

    project: str
    settings: dict
    rows: list[dict]


def read_run(path: Path) -> Run:
    """What is in a run-*.wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    project, settings, rows = "", {}, []
    for data in records(path.read_bytes()):
        record = Record.FromString(data)
        project = record.run.project or project
        settings |= values([*record.run.config.update, *record.config.update])
        if record.HasField("history"):
            rows.append({"_step": record.history.step.num} | values(record.history.item))
    return Run(project, settings, rows)


def values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def records(data: bytes):
    """The bytes of every record. One that is longer than what is left of a block goes on in the next."""
    assert HEADER.unpack_from(data)[0] == b":W&B"
    at, record = HEADER.size, b""
    while at + CHUNK.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < CHUNK.size:  # no room for a chunk
            at += left
            continue
        _, length, kind = CHUNK.unpack_from(data, at)
        at += CHUNK.size + length
        record += data[at - length : at]
        if kind in (FULL, LAST):
            yield record
            record = b""
