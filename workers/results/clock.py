"""Times as a reader sees them."""


def clock(time_s: float) -> str:
    """`hh:mm:ss`, cut off, not rounded: a link never points behind its place."""
    whole = int(time_s)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def precise(milliseconds: int, point: str) -> str:
    """`hh:mm:ss.mmm`, with the decimal mark that a format asks for."""
    return f"{clock(milliseconds / 1000)}{point}{milliseconds % 1000:03}"
