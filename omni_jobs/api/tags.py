"""Entity tags: which versions a caller says it has."""

ANY = "*"


def tags(if_none_match: str) -> set[str]:
    """The opaque parts of an `If-None-Match`; `*` stands for whatever there is."""
    return {tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(",")}


def has(if_none_match: str | None, tag: str) -> bool:
    return if_none_match is not None and not tags(if_none_match).isdisjoint({tag, ANY})
