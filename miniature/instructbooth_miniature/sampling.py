"""Draws random scenes of the world: what stands where, in which colours. Deterministic from a random.Random."""

from __future__ import annotations

import random

from .subjects import is_held_out
from .world import (
    BODIES,
    CRESTS,
    MASCOT_PALETTE,
    MOUTHS,
    OBJECT_PIXELS,
    PALETTE,
    PATTERNS,
    PICTURE_SIZE,
    POSITIONS,
    SHAPES,
    SIZE_PIXELS,
    Mascot,
    PlainObject,
    Pose,
    Scene,
)

MARGIN = 1.5
"""Pixels between a thing and the picture's edge, and at least twice that between two things."""
MIDDLE = PICTURE_SIZE / 2
JITTER = 2.5
"""How far (pixels) the subject may stand from the middle when no position is meant."""
PLAIN_SUBJECT_SHARE = 0.15
SECOND_SHARE = 0.45
POSITION_SHARE = 0.42
SMALL_SHARE, BIG_SHARE = 0.25, 0.15
MAX_TILT_DEGREES = 7.0


def sample_mascot(rng: random.Random) -> Mascot:
    """A random identity, held-out looks included."""
    first, second = rng.sample(sorted(MASCOT_PALETTE), 2)
    return Mascot(
        body=rng.choice(BODIES),
        pattern=rng.choice(PATTERNS),
        colours=(first, second),
        crest=rng.choice(CRESTS),
        eyes=1 if rng.random() < 0.3 else 2,
        mouth=rng.choice(MOUTHS),
        feet=rng.random() < 0.5,
    )


def sample_training_scene(rng: random.Random) -> Scene:
    """A random scene that pretraining may see."""
    while True:
        scene = sample_scene(rng)
        if not is_held_out(scene):
            return scene


def sample_scene(rng: random.Random) -> Scene:
    """A random scene; held-out ones may come up."""
    background = rng.choice(sorted(PALETTE))
    subject: Mascot | PlainObject
    subject = sample_object(rng, {background}) if rng.random() < PLAIN_SUBJECT_SHARE else sample_mascot(rng)
    position = rng.choice(POSITIONS) if rng.random() < POSITION_SHARE else ""
    taken = {background} | ({subject.colour} if isinstance(subject, PlainObject) else set())
    second = sample_object(rng, taken) if rng.random() < SECOND_SHARE else None
    size = "small" if rng.random() < SMALL_SHARE else ""
    if second is None and not position and rng.random() < BIG_SHARE / (1 - SECOND_SHARE) / (1 - POSITION_SHARE):
        size = "big"
    return compose(rng, subject, background, size, position, second)


def sample_object(rng: random.Random, taken: set[str]) -> PlainObject:
    """A random plain object in a colour that is not taken (by the background or another object)."""
    return PlainObject(rng.choice(SHAPES), rng.choice([colour for colour in sorted(PALETTE) if colour not in taken]))


def compose(
    rng: random.Random,
    subject: Mascot | PlainObject,
    background: str,
    size: str,
    position: str,
    second: PlainObject | None,
) -> Scene:
    """A scene with these attributes and random poses that keep things apart and inside the picture."""
    tilt = rng.uniform(-MAX_TILT_DEGREES, MAX_TILT_DEGREES) if isinstance(subject, Mascot) else 0.0
    extent = rng.uniform(*SIZE_PIXELS[size])
    if second is None:
        x, y = _alone(rng, extent, position)
        return Scene(subject, background, size, position, None, Pose(x, y, extent, tilt), None)
    extent = min(extent, SIZE_PIXELS[""][0] + 1.0)
    side = position or rng.choice(("left", "right"))
    other = rng.uniform(*OBJECT_PIXELS)
    along, along_other = _apart(rng, extent, other)
    across, across_other = MIDDLE + rng.uniform(-JITTER, JITTER), MIDDLE + rng.uniform(-4 * JITTER, 4 * JITTER)
    if side in ("right", "bottom"):
        along, along_other = PICTURE_SIZE - along, PICTURE_SIZE - along_other
    if side in ("left", "right"):
        here, there = Pose(along, across, extent, tilt), Pose(along_other, across_other, other)
    else:
        here, there = Pose(across, along, extent, tilt), Pose(across_other, along_other, other)
    return Scene(subject, background, size, position, second, here, there)


def _alone(rng: random.Random, extent: float, position: str) -> tuple[float, float]:
    """Centre of a subject that stands by itself."""
    room = MIDDLE - extent / 2 - MARGIN
    x, y = (MIDDLE + rng.uniform(-1, 1) * min(JITTER, room) for _ in range(2))
    near = extent / 2 + MARGIN + rng.uniform(0.0, 3.5)
    if position in ("right", "bottom"):
        near = PICTURE_SIZE - near
    if position in ("left", "right"):
        return near, y
    if position in ("top", "bottom"):
        return x, near
    return x, y


def _apart(rng: random.Random, extent: float, other: float) -> tuple[float, float]:
    """Centres along one axis of the subject (near the low edge) and the second object (near the high edge)."""
    spare = PICTURE_SIZE - extent - other - 4 * MARGIN
    before, after = rng.uniform(0, min(spare / 2, 4.0)), rng.uniform(0, min(spare / 2, 6.0))
    return MARGIN + before + extent / 2, PICTURE_SIZE - MARGIN - after - other / 2
