"""What is tried at a model server, check by check; each says what was found and what follows from it."""

import io
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from omni_jobs.errors import SourceError
from omni_jobs.settings import Settings
from workers.backends.asking import reading
from workers.backends.remote import sampled, wire
from workers.backends.remote.chat import Chat
from workers.backends.remote.data_uris import Part, audio_part, image_part, video_part
from workers.backends.remote.servers import Server
from workers.backends.remote.wire import Body, Reply
from workers.inputs import RATE_HZ, CanonicalAudio
from workers.prompts import INSTRUCT, SPEECH, THINKING, Prompt, Sampling, Shape

LOOKED_AT = 8  # tokens that a medium takes at least, if it is not thrown away
LONG_WORDS = 12_000  # about the longest that a summary asks
WORDS = ("river", "stone", "letter", "garden", "winter", "music", "paper", "harbour")
ANSWERS = (16_384, 8192, 4096, 2048)  # tokens; the longest that is allowed
REASONING = 128
PARSER = "start it with --reasoning-parser nemotron_v3 to have it apart"


FOLLOWS = {
    "models": "check the URL, and OMNI_REMOTE_KEY if it wants a key",
    "image": "a model server for pages and captions has to take image_url",
    "audio": "vLLM: pip install 'vllm[audio]'; SGLang: librosa; or leave `span` out of OMNI_REMOTE_KINDS",
    "video": "clips are sent as frames",
    "frames of a long video": "clips are sent as frames",
    "long prompts": "start it with a larger --max-model-len",
}
SETTINGS = {
    "video": {"OMNI_REMOTE_VIDEO": "frames"},
    "frames of a long video": {"OMNI_REMOTE_VIDEO": "frames"},
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried.

    Attributes:
        state: ok; note: it works in another way, or with a setting; bad: it does not.
        follows: what to do about it.
        settings: variables that make the best of it.
    """

    name: str
    state: Literal["ok", "note", "bad"]
    found: str
    follows: str = ""
    settings: dict[str, str] = field(default_factory=dict)


class Colour(Shape):
    colour: Literal["ochre", "teal"]


class Checks:
    """The checks of one server. A method raises an `OmniError` where the server refuses what it tries."""

    def __init__(self, chat: Chat, server: Server, settings: Settings) -> None:
        self._chat, self._server, self._settings = chat, server, settings
        self.model = settings.remote_model
        self._takes_video = False

    async def _ask(
        self, text: str, media: tuple[Part, ...] = (), *, sampling: Sampling = INSTRUCT, most: int = 64, **more: Any
    ) -> Reply:
        prompt: Prompt[Any] = Prompt(text, most, sampling, more.pop("shape", None))
        return await self._send(wire.body_of(self.model, prompt, media, most_tokens=most, **more))

    async def _send(self, body: Body) -> Reply:
        return await self._chat.ask_at(self._server, body)

    # What every server must do

    async def models(self) -> Check:
        models = await self._chat.models_at(self._server)
        names = [str(one["id"]) for one in models]
        if not names:
            return Check("models", "bad", "it serves no model")
        self.model = self.model or names[0]
        if self.model not in names:
            return Check(
                "models", "bad", f"no {self.model}: it has {', '.join(names[:8])}", "name one of them: --model"
            )
        limit = next(one for one in models if one["id"] == self.model).get("max_model_len")
        context = f", context of {limit:,} tokens" if isinstance(limit, int) else ""
        return Check("models", "ok", f"{self.model}{context}")

    async def text(self) -> Check:
        reply = await self._ask("Reply with the word: harbour")
        if not reading.answer_of(reply.content) and not reply.reasoning:
            return Check("text", "bad", f"an empty answer, which ended by {reply.finish or 'nothing'}")
        counted = "" if reply.prompt_tokens is not None else ", does not count tokens"
        return Check("text", "ok", f"answers{counted}")

    # Reasoning, and the form of answers

    async def thinking_off(self) -> Check:
        reply = await self._ask("What is 17 + 25? Answer with the number only.", most=256)
        if "chat_template_kwargs" in self._server.without:
            return Check(
                "thinking off", "note", "does not know chat_template_kwargs", "turn reasoning off at the server"
            )
        if reply.reasoning or reading.has_reasoning(reply.content):
            follows = "answers take longer; what is thought is taken out"
            return Check("thinking off", "note", "thinks although it is told not to", follows)
        return Check("thinking off", "ok", "answers at once")

    async def thinking_on(self) -> Check:
        name, sampling = "thinking on", replace(THINKING, seed=1, reasoning_tokens=REASONING)
        text = "A train leaves at 09:40 and takes 2 h 35 min. When does it arrive? Answer with the time only."
        reply = await self._ask(text, sampling=sampling, most=512)
        if reply.finish == "length":
            follows = "leave OMNI_REMOTE_REASONING at 0"
            return Check(name, "note", f"does not keep to a budget of {REASONING} tokens", follows)
        if "thinking_token_budget" in self._server.without:
            found = "does not know thinking_token_budget: nothing stops it but the length of the answer"
            return Check(name, "note", found, "leave OMNI_REMOTE_REASONING at 0")
        if reading.has_reasoning(reply.content):
            return Check(name, "note", "reasoning stands inside `content`", f"it is taken out; {PARSER}")
        if not reply.reasoning:
            return Check(name, "note", "does not show that it thinks", "OMNI_REMOTE_REASONING may change nothing")
        return Check(name, "ok", "reasoning comes apart from the answer")

    async def cut_off(self) -> Check:
        reply = await self._ask("Count from 1 to 200 in words.", most=8)
        if reply.finish == "length":
            return Check("cut-off answers", "ok", "says so (`length`)")
        found = f"asked for 8 tokens, it ended by `{reply.finish}`"
        return Check("cut-off answers", "bad", found, "answers that lack their end would pass for whole ones")

    async def schema(self) -> Check:
        # Nobody would answer like this who is not made to.
        reply = await self._ask("Say hello, in one short sentence.", shape=Colour)
        if "response_format" in self._server.without:
            return Check("JSON schema", "note", "refuses `response_format`", "answers are read out of text")
        try:
            Colour.model_validate_json(reading.answer_of(reply.content))
        except ValueError:
            follows = "answers are read out of text; more of them will have to be asked for again"
            return Check("JSON schema", "note", "takes `response_format` and does not keep to it", follows)
        return Check("JSON schema", "ok", "keeps to it")

    # Media

    async def image(self) -> Check:
        text = "What colour is this picture? Answer with one word."
        reply, looked = await self._shown(text, image_part(_red()))
        if not looked:
            return Check("image", "bad", "takes an image and does not look at it", FOLLOWS["image"])
        said = " ".join(reading.answer_of(reply.content).split())[:40]
        if "red" not in said.lower():
            return Check("image", "note", f"says {said!r} of a red picture", "is it a model that sees?")
        return Check("image", "ok", "sees that red is red")

    async def audio(self) -> Check:
        reply, looked = await self._shown("Transcribe this audio.", audio_part(_tone()), sampling=SPEECH)
        if not looked:
            return Check("audio", "bad", "takes sound and does not listen to it", FOLLOWS["audio"])
        return Check("audio", "ok", f"takes sound{_tokens(reply)}")

    async def video(self) -> Check:
        frames = sampled.pictures(sampled.FEW)
        reply, looked = await self._shown("Describe this video.", video_part(frames), frames=len(frames))
        if not looked:
            return Check("video", "bad", "takes a video and does not look at it", FOLLOWS["video"], SETTINGS["video"])
        self._takes_video = True
        return Check("video", "ok", f"takes a video{_tokens(reply)}")

    async def _shown(
        self, text: str, part: Part, *, sampling: Sampling = INSTRUCT, frames: int = 0
    ) -> tuple[Reply, bool]:
        """What it says of a medium, and whether that took more tokens than the text alone."""
        alone = await self._ask(text, most=1)
        reply = await self._ask(text, (part,), sampling=sampling, frames=frames)
        if alone.prompt_tokens is None or reply.prompt_tokens is None:
            return reply, True
        return reply, reply.prompt_tokens - alone.prompt_tokens >= LOOKED_AT

    async def frames(self) -> Check:
        name, wanted = "frames of a long video", self._settings.remote_frames
        if not self._takes_video:
            return Check(name, "bad", "takes no video", FOLLOWS["video"], SETTINGS["video"])
        seen = await sampled.frames_seen(self._send, self.model, wanted)
        if seen is None:
            return Check(name, "note", "cannot be told: it does not count tokens", "OMNI_REMOTE_VIDEO=frames is sure")
        if seen >= 0.9 * wanted:
            return Check(name, "ok", f"looks at all of {wanted}")
        least = max(2, int(seen))
        found = f"looks at about {least} of {wanted}"
        follows = f"clips are shown {least} frames at a time; or {sampled.REMEDY.partition(', or')[0]}"
        return Check(name, "note", found, follows, {"OMNI_REMOTE_FRAMES": str(least)})

    # Room

    async def longest_answer(self) -> Check:
        name = "longest answer"
        for most in ANSWERS:
            try:
                await self._ask("Reply with the word: harbour", most=most)
            except SourceError as error:
                refused = str(error)
                continue
            if most >= ANSWERS[0]:
                return Check(name, "ok", f"{most:,} tokens may be asked for")
            follows = "start it with a larger --max-model-len"
            return Check(
                name, "note", f"{most:,} tokens may be asked for", follows, {"OMNI_REMOTE_MAX_TOKENS": str(most)}
            )
        return Check(name, "bad", refused, "start it with a larger --max-model-len")

    async def long_prompt(self) -> Check:
        name = "long prompts"
        words = " ".join(WORDS[number % len(WORDS)] for number in range(LONG_WORDS))
        reply = await self._ask(f"Name the first of these words.\n{words}", most=8)
        if reply.prompt_tokens is not None and reply.prompt_tokens < LONG_WORDS:
            found = f"reads {reply.prompt_tokens:,} tokens of a prompt of {LONG_WORDS:,} words, and does not say so"
            return Check(name, "bad", found, "give it a larger context (Ollama: num_ctx, llama.cpp: --ctx-size)")
        return Check(name, "ok", f"reads {reply.prompt_tokens or LONG_WORDS:,} tokens")


def _red() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), (225, 20, 20)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _tone() -> CanonicalAudio:
    """Two seconds of a sine of 440 Hz."""
    return CanonicalAudio((6000 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE_HZ) / RATE_HZ)).astype(np.int16))


def _tokens(reply: Reply) -> str:
    return f" ({reply.prompt_tokens:,} tokens with the question)" if reply.prompt_tokens is not None else ""
