"""The model card's clients: their calls, field for field, with the official package.

Beyond the card are only seeds, where it draws: noise then ends at the same length each time. Pictures are tiny, and the
budget of the thoughts is. Not of the card is the key: it has an empty one, which today's client does not take.
"""

import base64
import io
from pathlib import Path
from typing import Any

import pymupdf
import pytest
import requests
from openai import OpenAI
from PIL import Image

from tests.workers.media.tiny import Writer, plain_pictures, tone
from tests.workers.serving.conftest import NAME, Served

INSTRUCT = {"top_k": 1, "chat_template_kwargs": {"enable_thinking": False}}


# Of the card's script for PDFs; its words change nothing here.
PAGE_PROMPT = "Page {page}.\n\nSummarize this PDF page: main topic, section headings, important facts or bullets."


def ask(served: Served, *content: dict[str, Any], **fields: Any) -> Any:
    return served.client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": list(content)}], **fields
    )


def data_url(picture: Image.Image, format: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def answered(response: Any, *, longest: int) -> None:
    choice, usage = response.choices[0], response.usage
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    assert 1 <= usage.completion_tokens <= longest
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_image(served: Served) -> None:
    picture = Image.effect_noise((40, 30), 60).convert("RGB")
    response = ask(
        served,
        {"type": "text", "text": "Describe this image in detail."},
        {"type": "image_url", "image_url": {"url": data_url(picture, "JPEG")}},
        max_tokens=1024, temperature=0.2, extra_body=INSTRUCT,
    )  # fmt: skip
    answered(response, longest=1024)
    assert response.usage.prompt_tokens > 40  # its rows are there


def test_audio(served: Served) -> None:
    path = served.folder / "speech.wav"
    writer = Writer(path, "wav")
    writer.sound(writer.add_sound("pcm_s16le", 16_000), tone(16_000))
    writer.close()
    response = ask(
        served,
        {"type": "audio_url", "audio_url": {"url": path.resolve().as_uri()}},
        {"type": "text", "text": "Transcribe this audio."},
        max_tokens=1024, temperature=0.2, extra_body=INSTRUCT,
    )  # fmt: skip
    answered(response, longest=1024)
    assert response.usage.prompt_tokens > 3 * 12  # 12.5 rows a second


def test_video(served: Served) -> None:
    path = film(served.folder / "demo.mp4")
    response = ask(
        served,
        {"type": "video_url", "video_url": {"url": path.resolve().as_uri()}},
        {"type": "text", "text": "Describe this video."},
        max_tokens=20480, temperature=0.6, top_p=0.95, seed=7,
        extra_body={
            "thinking_token_budget": 16384 + 1024,
            "chat_template_kwargs": {"enable_thinking": True, "reasoning_budget": 16384},
            "mm_processor_kwargs": {"use_audio_in_video": False},
        },
    )  # fmt: skip
    answered(response, longest=20480)


# AAC begins with up to a tenth of a second of its own.
@pytest.mark.parametrize(("sound_s", "tokens"), [(2.0, (2 + 25, 2 + 26)), (0.0, (0,))])
def test_a_video_is_heard_where_that_is_asked_for(served: Served, sound_s: float, tokens: tuple[int, ...]) -> None:
    """`use_audio_in_video`: its sound track is 12.5 rows a second between two marks; where there is none, nothing."""
    path = film(served.folder / f"heard-{sound_s}.mp4", sound_s)
    shown = {"type": "video_url", "video_url": {"url": path.resolve().as_uri()}}
    counts: dict[bool | None, int] = {}
    for use in (False, True, None):
        more = {} if use is None else {"mm_processor_kwargs": {"use_audio_in_video": use}}
        counts[use] = served.chat([shown], max_tokens=1, **more).usage.prompt_tokens
    assert counts[True] - counts[False] in tokens and counts[None] == counts[False]


def film(path: Path, sound_s: float = 0.0) -> Path:
    """Three seconds, ten pictures in each."""
    writer = Writer(path, "mp4")
    sound = writer.add_sound("aac", 16_000) if sound_s else None
    writer.video(writer.add_video("libx264"), plain_pictures(30))
    if sound is not None:
        writer.sound(sound, tone(16_000, sound_s))
    writer.close()
    return path


def test_text(served: Served) -> None:
    body = {
        "model": NAME, "messages": [{"role": "user", "content": "Hello, what can you do?"}], "temperature": 0.2,
        "top_k": 1,
    }  # fmt: skip
    response = requests.post(f"{served.url}/chat/completions", json=body, timeout=60)
    assert isinstance(response.json()["choices"][0]["message"]["content"], str)


def test_pdf_page_by_page(served: Served) -> None:
    document = pymupdf.open()
    for number in range(2):
        document.new_page(width=60, height=80).insert_text((5, 20), f"page {number}")
    for number in range(2):
        pixmap = document.load_page(number).get_pixmap(matrix=pymupdf.Matrix(150 / 72, 150 / 72))
        url = data_url(Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples), "PNG")
        text = PAGE_PROMPT.format(page=number + 1)
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
        body = {
            "model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 32000, "stream": False,
            "temperature": 0.2, "chat_template_kwargs": {"enable_thinking": False}, "seed": number,
        }  # fmt: skip
        response = requests.post(f"{served.url}/chat/completions", json=body, timeout=120)
        response.raise_for_status()
        assert isinstance(response.json()["choices"][0]["message"]["content"].strip(), str)


@pytest.mark.parametrize("apart", [True, False])
def test_reasoning_within_a_budget(served: Served, served_plain: Served, checkpoint: Path, apart: bool) -> None:
    """Thoughts by a chat, closed by the client, and the answer by a completion that goes on from there."""
    auto = pytest.importorskip("transformers").AutoTokenizer
    tokenizer = auto.from_pretrained(checkpoint, trust_remote_code=True)
    client = OpenAI(base_url=served.url if apart else served_plain.url, api_key="none")
    messages, budget, most = [{"role": "user", "content": "What is 2 + 2?"}], 16, 160
    first = client.chat.completions.create(
        model=NAME, messages=messages, max_tokens=budget,
        extra_body={"top_k": 1, "chat_template_kwargs": {"enable_thinking": True}},
    )  # fmt: skip
    thought = first.choices[0].message.content or ""
    assert bool(thought) is not apart  # the card's client looks for thoughts in the content
    if "</think>" not in thought:
        thought = f"{thought}</think>\n\n"
    left = most - len(tokenizer.encode(thought, add_special_tokens=False))
    assert left > 0
    prompt = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": thought}], tokenize=False, continue_final_message=True
    )
    second = client.completions.create(model=NAME, prompt=prompt, max_tokens=left, extra_body={"top_k": 1})
    assert second.choices[0].finish_reason in ("stop", "length")
    assert 1 <= second.usage.completion_tokens <= left
    assert second.usage.prompt_tokens < len(prompt)  # control tokens of the prompt are tokens
