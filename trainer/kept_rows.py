"""Rows of an evaluation that are kept beside its report until it is written, so that a stopped run goes on."""

import json
from pathlib import Path


class KeptRows:
    """report: the file to come; None keeps nothing. key: of weights and settings; rows with another are left out."""

    def __init__(self, report: Path | None, key: str):
        self.path, self.key = report and report.with_suffix(".partial.jsonl"), key

    def read(self) -> list[dict]:
        """Rows of a run that was stopped; a last line that was cut off is left out."""
        if self.path is None or not self.path.exists():
            return []
        lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        return [row for row in map(json.loads, lines) if row.pop("key", None) == self.key]

    def add(self, row: dict):
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"key": self.key, **row}) + "\n")

    def remove(self):
        """The report is written: nothing is left to go on with."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
