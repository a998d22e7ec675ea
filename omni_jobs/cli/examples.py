"""The end of every `--help`: commands that can be run as they stand."""


def examples(*lines: str) -> str:
    # \b keeps the lines of a paragraph apart when the help is wrapped.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
