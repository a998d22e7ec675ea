"""Decoded media wait for room, and nobody waits for ever."""

import threading
from collections.abc import Callable

import pytest
import torch

from omni_jobs.errors import Unavailable
from tests.waiting import eventually
from workers.engine.media import Decoded, Image, Sound, Video
from workers.room import Room, size_of

PICTURE = Image(torch.zeros(3, 10, 10, dtype=torch.uint8))  # 300 bytes


def loading(
    room: Room, id: str, load: Callable[[], Decoded] = lambda: PICTURE
) -> tuple[threading.Thread, list[object]]:
    came: list[object] = []

    def run() -> None:
        try:
            came.append(room.load(id, load))
        except Unavailable as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, came


def test_who_comes_when_it_is_full_waits_until_somebody_leaves() -> None:
    room = Room(500)
    assert room.load("a", lambda: PICTURE) is PICTURE and room.load("b", lambda: PICTURE) is PICTURE
    thread, came = loading(room, "c")
    thread.join(0.05)
    assert not came and room.held_bytes == 600
    room.leave("a")
    thread.join(5)
    assert came == [PICTURE] and room.held_bytes == 600
    for id in ("b", "c", "c", "never"):
        room.leave(id)
    assert room.held_bytes == 0


def test_who_is_inside_never_waits() -> None:
    """Two requests of two pictures each, in a room for one: both would wait for the other."""
    room = Room(1)
    both = threading.Barrier(2)
    first = [loading(room, id, lambda: (both.wait(5), PICTURE)[1]) for id in ("a", "b")]
    for thread, came in first:
        thread.join(5)
        assert came == [PICTURE]
    assert room.load("a", lambda: PICTURE) is PICTURE and room.held_bytes == 900


def test_who_leaves_while_it_waits_or_decodes_takes_no_room() -> None:
    room = Room(1)
    room.load("a", lambda: PICTURE)
    thread, came = loading(room, "b")
    assert eventually(lambda: "b" in room._held)
    room.leave("b")
    thread.join(5)
    assert isinstance(came[0], Unavailable) and room.held_bytes == 300
    room.leave("a")
    with pytest.raises(Unavailable):
        room.load("c", lambda: (room.leave("c"), PICTURE)[1])
    assert room.held_bytes == 0


def test_what_does_not_decode_takes_no_room() -> None:
    room = Room(1)
    with pytest.raises(ZeroDivisionError):
        room.load("a", lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    room.leave("a")
    assert room.load("b", lambda: PICTURE) is PICTURE


def test_media_weigh_what_their_tensors_do() -> None:
    sound = Sound(torch.zeros(16))
    assert [size_of(one) for one in (PICTURE, sound, Video(PICTURE.pixels[None].repeat(4, 1, 1, 1), None, sound))] == [
        300, 64, 1264,
    ]  # fmt: skip
