"""A model server on loopback that plays back what real ones say, and takes requests only as the model card has them.

What is wrong with a request it says in the words of vLLM, with status 400. Its traits are those of real servers: that
32 frames of a video are enough, that reasoning stands inside `content`, that a schema is ignored.
"""

import base64
import io
import json
import math
import re
import select
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import av
import jsonschema_rs
from PIL import Image

MODEL = "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-NVFP4"
CARD = {
    "model", "messages", "max_tokens", "temperature", "top_p", "top_k", "stream", "chat_template_kwargs",
    "thinking_token_budget", "mm_processor_kwargs",
}  # fmt: skip
BEYOND = {"seed", "response_format", "media_io_kwargs"}  # OpenAI's, and vLLM's since 0.18
GRACE = 1024
THOUGHT = "The user wants me to look at this. Let me see what there is. {not json}"


class Wrong(Exception):
    """A request that a server would refuse."""


@dataclass(frozen=True)
class Play:
    """One answer out of the ordinary.

    Attributes:
        hang: nothing is answered until the client leaves.
        cut: so many bytes of the body are left out.
        drip_s: before each byte of the body.
    """

    status: int = 200
    content: str | None = None
    finish: str = "stop"
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: int = 0
    drip_s: float = 0.0
    raw: bytes | None = None


@dataclass
class Traits:
    key: str = ""
    max_model_len: int = 131_072
    audio: bool = True
    video: bool = True
    counts: bool = True  # whether it reports usage
    default_frames: int = 256  # of a video, where the request does not say
    heeds_media_io: bool = True
    forbids: frozenset[str] = frozenset()  # fields it does not know and refuses
    schema: Literal["kept", "ignored"] = "kept"
    reasoning: Literal["apart", "content", "none"] = "apart"
    always_thinks: bool = False
    silent_context: int = 0  # prompts are cut to so many tokens without a word; 0: refused


@dataclass(frozen=True)
class Asked:
    """What is in a request, read back out of its data URIs."""

    body: dict[str, Any]
    text: str
    images: tuple[tuple[int, int], ...]
    audio_s: tuple[float, ...]
    video_frames: tuple[int, ...]
    authorization: str | None = None

    @property
    def kind(self) -> str:
        return "audio" if self.audio_s else "video" if self.video_frames else "image" if self.images else "text"

    @property
    def thinks(self) -> bool:
        return self.body.get("chat_template_kwargs", {}).get("enable_thinking", True)


Answering = Callable[[Asked], str]


class RecordedServer:
    """The server. `plays` come first, in order; then `answering` says what a model would."""

    def __init__(self, traits: Traits | None = None, answering: Answering | None = None) -> None:
        self.traits, self.answering = traits or Traits(), answering or plausible
        self.plays: list[Play] = []
        self.asked: list[Asked] = []
        self.refused: list[str] = []
        self.at: list[float] = []
        self.left = threading.Event()  # a client went away while it waited
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        recorded = self

        class Handler(_Handler):
            server_of = recorded

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def of(self, kind: str) -> list[Asked]:
        return [one for one in self.asked if one.kind == kind]


@contextmanager
def recorded(traits: Traits | None = None, answering: Answering | None = None) -> Iterator[RecordedServer]:
    server = RecordedServer(traits, answering)
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    server_of: RecordedServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        traits = self.server_of.traits
        if self._is_locked():
            return
        if self.path != "/v1/models":
            self._error(404, "Not Found")
            return
        card = {"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": traits.max_model_len}
        self._json(200, {"object": "list", "data": [card]})

    def do_POST(self) -> None:
        server = self.server_of
        with server.lock:
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
            server.at.append(time.monotonic())
        try:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))
        finally:
            with server.lock:
                server.busy -= 1

    def _answer(self, data: bytes) -> None:
        server = self.server_of
        if self._is_locked():
            return
        try:
            if self.path != "/v1/chat/completions":
                raise Wrong(f"no route {self.path}")
            asked = read(json.loads(data), server.traits, self.headers.get("Authorization"))
        except Wrong as wrong:
            server.refused.append(str(wrong))
            self._error(400, str(wrong))
            return
        with server.lock:
            server.asked.append(asked)
            play = server.plays.pop(0) if server.plays else Play()
        if play.hang:
            self._wait_for_leaving()
        elif play.raw is not None:
            self._send(play.status, play.raw, play)
        elif play.status != 200:
            self._error(play.status, play.message or "it failed", play)
        else:
            self._json(200, completion(asked, play, server), play)

    def _is_locked(self) -> bool:
        key = self.server_of.traits.key
        if not key or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self._error(401, f"Incorrect API key provided: {self.headers.get('Authorization')}")
        return True

    def _wait_for_leaving(self) -> None:
        while not self.server_of.closed:
            if select.select([self.connection], [], [], 0.02)[0] and not self.connection.recv(1):
                self.server_of.left.set()
                self.close_connection = True
                return
        self.close_connection = True

    def _error(self, status: int, message: str, play: Play | None = None) -> None:
        kind = {400: "BadRequestError", 401: "AuthenticationError", 429: "RateLimitError"}.get(status, "InternalError")
        self._json(status, {"error": {"message": message, "type": kind, "param": None, "code": status}}, play)

    def _json(self, status: int, document: Any, play: Play | None = None) -> None:
        self._send(status, json.dumps(document).encode(), play)

    def _send(self, status: int, data: bytes, play: Play | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in {**headers, **(play.headers if play else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = play.cut if play else 0
        try:
            if play and play.drip_s:
                self._drip(data, play.drip_s)
            else:
                self.wfile.write(data[: len(data) - cut])
        except OSError:
            self.close_connection = True
        if cut:
            self.close_connection = True

    def _drip(self, data: bytes, each_s: float) -> None:
        for at in range(len(data)):
            if self.server_of.closed:
                break
            self.wfile.write(data[at : at + 1])
            time.sleep(each_s)


# What is right


def read(body: Any, traits: Traits, authorization: str | None = None) -> Asked:
    """A request, if it is one of the card's.

    Raises:
        Wrong: it is not; the message says why.
    """
    _require(isinstance(body, dict), "the body is no object")
    for name in sorted(body.keys() - (CARD | BEYOND)) + sorted(traits.forbids & body.keys()):
        raise Wrong(
            f"[{{'type': 'extra_forbidden', 'loc': ('body', '{name}'), 'msg': 'Extra inputs are not permitted'}}]"
        )
    _require(body.get("model") == MODEL, f"The model `{body.get('model')}` does not exist.")
    _require(body.get("stream") is False, "stream: the recorded server does not stream")
    _require(isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 0, "max_tokens: expected an int above 0")
    asked = _content(body, authorization)
    _check_media(asked, traits)
    _check_sampling(asked, traits)
    _check_format(body)
    tokens = prompt_tokens(asked, traits)
    if tokens + body["max_tokens"] > traits.max_model_len and not traits.silent_context:
        raise Wrong(
            f"This model's maximum context length is {traits.max_model_len} tokens. However, you requested "
            f"{tokens + body['max_tokens']} tokens ({tokens} in the messages, {body['max_tokens']} in the completion)."
        )
    return asked


def _require(holds: object, message: str) -> None:
    if not holds:
        raise Wrong(message)


def _content(body: dict[str, Any], authorization: str | None) -> Asked:
    messages = body.get("messages")
    _require(isinstance(messages, list) and len(messages) == 1, "messages: expected one of the user")
    (message,) = messages
    _require(
        set(message) == {"role", "content"} and message["role"] == "user", "messages: expected role user and content"
    )
    content = message["content"]
    if isinstance(content, str):
        return Asked(body, content, (), (), (), authorization)
    texts: list[str] = []
    images: list[tuple[int, int]] = []
    audio: list[float] = []
    video: list[int] = []
    for part in content:
        kind = part.get("type")
        _require(set(part) == {"type", kind}, f"a part of type {kind} has the fields {sorted(part)}")
        if kind == "text":
            texts.append(part["text"])
            continue
        _require(kind in ("image_url", "audio_url", "video_url"), f"Unknown part type: {kind}")
        _require(set(part[kind]) == {"url"}, f"{kind}: expected an object with url")
        media_type, data = _data(part[kind]["url"])
        match kind, media_type:
            case "image_url", "image/jpeg" | "image/png":
                images.append(Image.open(io.BytesIO(data)).size)
            case "audio_url", "audio/wav":
                with wave.open(io.BytesIO(data)) as sound:
                    _require((sound.getframerate(), sound.getnchannels()) == (16_000, 1), "expected 16 kHz mono")
                    audio.append(sound.getnframes() / 16_000)
            case "video_url", "video/mp4":
                with av.open(io.BytesIO(data)) as container:
                    video.append(sum(1 for _ in container.decode(video=0)))
            case _:
                raise Wrong(f"{kind}: cannot take {media_type}")
    _require(len(texts) == 1, "expected one text part")
    return Asked(body, texts[0], tuple(images), tuple(audio), tuple(video), authorization)


def _data(url: str) -> tuple[str, bytes]:
    match = re.fullmatch(r"data:([\w/]+);base64,(.+)", url, re.DOTALL)
    if match is None:
        raise Wrong(f"expected a data URI, got {url[:40]}")
    return match[1], base64.b64decode(match[2], validate=True)


def _check_media(asked: Asked, traits: Traits) -> None:
    _require(traits.audio or not asked.audio_s, "Please install vllm[audio] for audio support")
    _require(traits.video or not asked.video_frames, "At most 0 video(s) may be provided in one prompt.")
    _require(all(0.1 <= length_s <= 3600 for length_s in asked.audio_s), "audio: expected 0.1 s to 1 h")
    processor, reader = asked.body.get("mm_processor_kwargs"), asked.body.get("media_io_kwargs")
    if asked.video_frames:
        _require(
            "mm_processor_kwargs" in traits.forbids or processor == {"use_audio_in_video": False}, "mm_processor_kwargs"
        )
        wanted = {"video": {"num_frames": asked.video_frames[0]}}
        _require("media_io_kwargs" in traits.forbids or reader == wanted, f"media_io_kwargs: expected {wanted}")
    else:
        _require(processor is None and reader is None, "mm_processor_kwargs without a video")


def _check_sampling(asked: Asked, traits: Traits) -> None:
    body, kwargs = asked.body, asked.body.get("chat_template_kwargs", {})
    _require(set(kwargs) <= {"enable_thinking", "reasoning_budget"}, f"chat_template_kwargs: {sorted(kwargs)}")
    if not asked.thinks or not kwargs:
        _require("thinking_token_budget" not in body, "thinking_token_budget without thinking")
    else:
        budget = kwargs["reasoning_budget"]
        _require((body["temperature"], body["top_p"]) == (0.6, 0.95) and "top_k" not in body, "preset of thinking mode")
        if "thinking_token_budget" not in traits.forbids:
            _require(body.get("thinking_token_budget") == budget + GRACE, "thinking_token_budget: expected with grace")
        _require(body["max_tokens"] > budget + GRACE, "max_tokens leaves no room for an answer")
    if asked.audio_s:
        _require((body["temperature"], body.get("top_k", 1)) == (1.0, 1), "preset of ASR: temperature 1.0, top_k 1")
    elif "seed" not in body:
        _require((body["temperature"], body.get("top_k", 1)) == (0.2, 1), "preset of instruct mode")


def _check_format(body: dict[str, Any]) -> None:
    if (wanted := body.get("response_format")) is None:
        return
    _require(wanted.get("type") == "json_schema", "response_format: expected json_schema")
    _require(set(wanted["json_schema"]) == {"name", "schema", "strict"}, "response_format.json_schema")
    jsonschema_rs.meta.validate(wanted["json_schema"]["schema"])


# What comes back


def prompt_tokens(asked: Asked, traits: Traits) -> int:
    """As vLLM counts: pictures by their size, 12.5 for a second of sound, 128 for two frames at a pruning of 0.5."""
    tokens = 20 + len(asked.text.split())
    tokens += sum(max(256, min(3328, width * height // 1024)) for width, height in asked.images)
    tokens += sum(math.ceil(length_s * 12.5) for length_s in asked.audio_s)
    for frames in asked.video_frames:
        heeded = (
            asked.body.get("media_io_kwargs", {}).get("video", {}).get("num_frames") if traits.heeds_media_io else None
        )
        tubelets = -(-min(frames, heeded or traits.default_frames) // 2)
        tokens += max(256, 128 * tubelets) + 27 * tubelets
    return min(tokens, traits.silent_context) if traits.silent_context else tokens


def completion(asked: Asked, play: Play, server: RecordedServer) -> dict[str, Any]:
    """A chat completion as vLLM 0.20 writes one."""
    traits = server.traits
    content = play.content if play.content is not None else server.answering(asked)
    if play.content is None and traits.schema == "kept" and "response_format" in asked.body:
        schema = asked.body["response_format"]["json_schema"]["schema"]
        jsonschema_rs.validator_for(schema).validate(json.loads(content))
    finish = play.finish
    if len(content.split()) > asked.body["max_tokens"]:
        content, finish = " ".join(content.split()[: asked.body["max_tokens"]]), "length"
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "tool_calls": []}
    thinks = traits.always_thinks or asked.thinks
    if thinks and traits.reasoning == "apart":
        message["reasoning"] = message["reasoning_content"] = THOUGHT
    elif thinks and traits.reasoning == "content":
        # The template opens the thought: only its end is in the answer.
        message["content"] = f"{THOUGHT}\n</think>\n\n{content}"
    prompt, answer = prompt_tokens(asked, traits), len(content.split())
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1780000000, "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish, "stop_reason": None}],
        "service_tier": None, "usage": usage if traits.counts else None, "prompt_logprobs": None,
    }  # fmt: skip


def plausible(asked: Asked) -> str:
    """What a model might say, made of what it was shown."""
    name = asked.body.get("response_format", {}).get("json_schema", {}).get("name")
    name = name or next((n for n, mark in MARKS.items() if mark in asked.text), None)
    match name:
        case "ShotsSaid":
            shots = [
                {
                    "shot": int(n),
                    "caption": f"Frames {a} to {b} show a bar.",
                    "on_screen": [f"SIGN {n}"] if n == "1" else [],
                }
                for n, a, b in re.findall(r"Shot (\d+): frames (\d+) to (\d+)", asked.text)
            ]
            return json.dumps({"shots": shots})
        case "PageSaid":
            blocks = [
                {"kind": "title", "text": "Dear Ms Albrecht,", "rows": []},
                {"kind": "table", "text": "", "rows": [["Reel", "State"], ["1", "damp"]]},
            ]
            return json.dumps({"language": "en", "blocks": blocks, "unread": ""})
        case "SummarySaid":
            return json.dumps({"sentences": [{"text": "It is about an archive.", "passages": [1, 2]}]})
        case "Colour":
            return json.dumps({"colour": "teal"})
        case _:
            return plain(asked)


MARKS = {"ShotsSaid": '{"shots"', "PageSaid": '"blocks"', "SummarySaid": '{"sentences"'}


def plain(asked: Asked) -> str:
    """Answers to what is asked without a shape."""
    match asked.kind:
        case "audio":
            return "It was the best of times. It was the worst of times."
        case "image":
            return "Red."
        case "video":
            return "A bar moves over a picture."
        case _:
            if "Count from" in asked.text:
                return " ".join(["one", "two", "three"] * 70)
            return "Hello there." if "hello" in asked.text else "harbour"
