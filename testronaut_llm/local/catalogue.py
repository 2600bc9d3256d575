"""The models that can be pulled by a short name: `catalogue.json`, a row each, easy to extend.

Digests are written down only where they are known; the sizes are bytes of the file, `memory` what serving it takes
with a context of 8192 tokens, roughly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from testronaut_llm.local.download import Wanted

FILE = Path(__file__).with_name("catalogue.json")
DEFAULT = "smollm2-135m"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry(Wanted):
    """A model that is wanted, and what a person chooses by."""

    about: str
    quality: int
    context: int
    memory: int


def catalogue() -> dict[str, CatalogueEntry]:
    """All entries by name, in the order of the file."""
    return {name: CatalogueEntry(name=name, **row) for name, row in json.loads(FILE.read_text("utf-8")).items()}
