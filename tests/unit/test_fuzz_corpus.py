"""Whatever once broke a parser, and good inputs with each byte damaged: what `make fuzz` found stays found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzz.targets import TARGETS, seeds

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
KNOWN = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
SEEDS = seeds()


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: f"{path.parent.name}-{path.name[:20]}")
def test_what_was_found_before(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_seeds_raise_documented_errors_only(name: str) -> None:
    target, chance = TARGETS[name], random.Random(name)
    for seed in SEEDS[name]:
        target(seed)
        for _ in range(200):
            data = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            target(bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.3 else data))


def test_every_target_has_seeds() -> None:
    assert SEEDS.keys() == TARGETS.keys()
    assert {path.parent.name for path in KNOWN} <= TARGETS.keys()
