"""Text of others on a terminal: file names, titles, messages."""


def plain(text: str) -> str:
    """In one line, and without what could steer a terminal: ESC, line ends, marks that turn the direction.

    A file name whose bytes are no UTF-8 holds surrogates; those cannot be printed either.
    """
    return "".join(letter if letter.isprintable() else " " for letter in text)


def plain_lines(text: str) -> str:
    """As `plain`, for what has lines of its own, such as the place of a mistake in SQL."""
    return "\n".join(plain(line) for line in text.split("\n"))
