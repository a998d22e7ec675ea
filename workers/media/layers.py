"""Whether a page's own text can be trusted, or a picture of it is needed. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What was counted on a page.

    Attributes:
        words: of the text layer that lie on the page.
        characters, odd_characters: all of them; those that mean nothing (U+FFFD, private use, control characters).
        texts, hidden_texts: drawing operations with text; those that draw nothing (render mode 3, OCR layers).
        outside_words: words beyond the page's edges.
        images_share: part of the page covered by raster pictures, 0..1.
        paths: vector drawings.
    """

    words: int
    characters: int = 0
    odd_characters: int = 0
    texts: int = 0
    hidden_texts: int = 0
    outside_words: int = 0
    images_share: float = 0.0
    paths: int = 0


def needs_image(facts: PageFacts) -> bool:
    """Whether the text layer is missing or doubtful."""
    if not facts.words:
        return True
    if facts.images_share > 0.5 or (facts.images_share > 0.2 and facts.words < 30):
        return True
    if facts.odd_characters > 0.05 * facts.characters or facts.hidden_texts > 0.5 * facts.texts:
        return True
    if facts.outside_words > facts.words:
        return True
    return facts.paths > 500 and facts.words < 20  # text drawn as curves


def is_odd(sign: str) -> bool:
    """Whether a character of a text layer means nothing."""
    code = ord(sign)
    return code == 0xFFFD or code < 32 or 0x7F <= code < 0xA0 or 0xE000 <= code < 0xF900 or code >= 0xF0000
