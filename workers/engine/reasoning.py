"""Parts what the model thought from what it answers.

An answer that begins inside a thought (the prompt ended with `<think>`) is thought up to the token `</think>`; a
thought that never ends is all there is. Only tokens part them: a model that writes about `</think>` does not end its
thought with it. Blanks at both ends of a thought and in front of the answer after it belong to the format.

Source: spec 5.2.
"""

from workers.engine.tokenizer import END_THINK, THINK, Control


class Trimmed:
    """Text without blanks at its ends, as a stream: a blank is given once something follows it."""

    def __init__(self, *, leading: bool) -> None:
        """
        Args:
            leading: blanks in front are dropped too.
        """
        self._drop = leading
        self._held = ""

    def push(self, text: str) -> str:
        """What of `text`, and of blanks held back, is known to lie inside."""
        text = self._held + text
        if self._drop:
            text = text.lstrip()
        given = text.rstrip()
        self._held = text[len(given) :]
        self._drop = self._drop and not given
        return given

    def rest(self) -> str:
        """The blanks held back, which thereby are given."""
        held, self._held = self._held, ""
        return held


class Reasoning:
    """
    Attributes:
        thinking: inside a thought now; after the last piece: the thought never ended.
    """

    def __init__(self, *, thinking: bool) -> None:
        """
        Args:
            thinking: the prompt opened a thought.
        """
        self.thinking = thinking
        self._thought = Trimmed(leading=True)
        self._begins = False  # an answer after a thought has not begun yet

    def push(self, piece: str) -> tuple[str, str]:
        """The thought and the piece of the answer (text or `Control`) that this piece adds; "" is nothing."""
        if isinstance(piece, Control):
            if piece in (THINK, END_THINK):
                self._turn(thinking=piece == THINK)
                return "", ""
            self._begins = False
            return "", "" if self.thinking else piece
        if self.thinking:
            return self._thought.push(piece), ""
        if self._begins:
            piece = piece.lstrip()
            self._begins = not piece
        return "", piece

    def _turn(self, *, thinking: bool) -> None:
        if thinking == self.thinking:
            return  # a tag that says what is so already
        self.thinking = thinking
        self._begins = not thinking
        self._thought = Trimmed(leading=True)
