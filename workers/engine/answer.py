"""An answer as a client wants it: thoughts, content and calls, out of the pieces that the engine gives.

`AnswerParser` does it while pieces come in; `read_answer` is the same at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workers.engine.messages import Call
from workers.engine.reasoning import Reasoning
from workers.engine.tokenizer import Control
from workers.engine.tool_calls import ToolCalls
from workers.engine.tools import Tool


@dataclass(frozen=True, slots=True)
class Answer:
    """What some pieces, or all of them, add up to.

    Attributes:
        unfinished: it ended inside a thought.
    """

    reasoning: str = ""
    content: str = ""
    calls: tuple[Call, ...] = ()
    unfinished: bool = False

    def __add__(self, later: "Answer") -> "Answer":
        return Answer(
            self.reasoning + later.reasoning, self.content + later.content, self.calls + later.calls, later.unfinished
        )


class AnswerParser:
    """Pieces in, what they add to the answer out. Control tokens that mean nothing in an answer are dropped."""

    def __init__(self, *, thinking: bool, tools: Sequence[Tool] = ()) -> None:
        """
        Args:
            thinking: the prompt opened a thought.
            tools: what may be called; without any, a call is content.
        """
        self._reasoning = Reasoning(thinking=thinking)
        self._calls = ToolCalls(tools) if tools else None

    def push(self, pieces: Iterable[str]) -> Answer:
        """What these pieces complete."""
        thoughts, contents, calls = [], [], []
        for piece in pieces:
            thought, part = self._reasoning.push(piece)
            content, found = self._calls.push(part) if self._calls else (_text(part), [])
            thoughts.append(thought)
            contents.append(content)
            calls += found
        return Answer("".join(thoughts), "".join(contents), tuple(calls), self._reasoning.thinking)

    def finish(self) -> Answer:
        """What was held back."""
        content = self._calls.finish() if self._calls else ""
        return Answer("", content, (), self._reasoning.thinking)


def read_answer(pieces: Iterable[str], *, thinking: bool, tools: Sequence[Tool] = ()) -> Answer:
    """The whole answer."""
    parser = AnswerParser(thinking=thinking, tools=tools)
    return parser.push(pieces) + parser.finish()


def _text(piece: str) -> str:
    return "" if isinstance(piece, Control) else piece
