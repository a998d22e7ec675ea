"""Joining gaps, and which promises of a header are believed."""

from workers.media.gaps import Gap, merge, missing_tail, within
from workers.media.magic import Family, family


def test_neighbours_of_one_reason_are_joined() -> None:
    gaps = [Gap(5, 6, "damaged"), Gap(1, 2, "damaged"), Gap(2.1, 3, "damaged"), Gap(3, 4, "missing")]
    assert merge(gaps) == (Gap(1, 3, "damaged"), Gap(3, 4, "missing"), Gap(5, 6, "damaged"))


def test_a_promise_kept_or_absurd_leaves_no_gap() -> None:
    assert missing_tail(30.0, None) is None
    assert missing_tail(30.0, 30.1) is None
    assert missing_tail(30.0, 54.0) == Gap(30.0, 54.0, "missing")
    assert missing_tail(30.0, 36_000.0) is None


def test_a_missing_end_is_missed_as_far_as_it_was_asked_for() -> None:
    assert missing_tail(60.0, 100.0, asked_s=90.0) == Gap(60.0, 90.0, "missing")
    assert missing_tail(60.0, 100.0, asked_s=50.0) is None
    assert missing_tail(30.0, 36_000.0, asked_s=90.0) is None
    assert within([Gap(1, 5, "damaged"), Gap(6, 7, "hole")], 4) == (Gap(1, 4, "damaged"),)


def test_the_bytes_decide_what_a_file_is() -> None:
    assert family(b"junk\n%PDF-1.7\n") is Family.DOCUMENT
    assert family(b"\x89PNG\r\n\x1a\n") is Family.IMAGE
    assert family(b"RIFF\0\0\0\0WEBPVP8 ") is Family.IMAGE
    assert family(b"RIFF\0\0\0\0WAVEfmt %PDF-") is Family.STREAMS
    assert family(b"\0\0\0\x1cftypavif\0\0\0\0mif1avif") is Family.IMAGE
    assert family(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic") is Family.PHOTO_UNSUPPORTED
    assert family(b"\0\0\0\x18ftypisom\0\0\0\0isommp41") is Family.STREAMS
    assert family(b"#EXTM3U\n") is Family.STREAMS
