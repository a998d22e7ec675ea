"""Tries a model server out: what works, what does not, and which setting follows.

`python -m workers.backends.remote.trial URL` prints a line of JSON for each check and one for the report; the command
line turns them into a table. The key comes from OMNI_REMOTE_KEY.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from omni_jobs.errors import OmniError, UsageError
from omni_jobs.settings import Settings
from workers.backends.remote.chat import Chat
from workers.backends.remote.checks import FOLLOWS, SETTINGS, Check, Checks
from workers.backends.remote.servers import Server, Servers, base_url

TIMEOUT_S = 180.0
REPLACEABLE = ("video", "frames of a long video")  # frames do as well


class Trial:
    """All checks of one server, one after the other."""

    def __init__(self, checks: Checks, server: Server) -> None:
        self._checks, self._server = checks, server
        self._states: dict[str, str] = {}
        self._found: dict[str, str] = {}

    async def run(self) -> AsyncIterator[Check]:
        """Every check; without an answer to the first two there is nothing more to try."""
        checks = self._checks
        for name, check in (
            ("models", checks.models),
            ("text", checks.text),
            ("thinking off", checks.thinking_off),
            ("thinking on", checks.thinking_on),
            ("cut-off answers", checks.cut_off),
            ("JSON schema", checks.schema),
            ("image", checks.image),
            ("audio", checks.audio),
            ("video", checks.video),
            ("frames of a long video", checks.frames),
            ("longest answer", checks.longest_answer),
            ("long prompts", checks.long_prompt),
        ):
            try:
                done = await check()
            except OmniError as error:
                done = Check(name, "bad", str(error), FOLLOWS.get(name, ""), SETTINGS.get(name, {}))
            self._states[name] = done.state
            self._found |= done.settings
            yield done
            if done.state == "bad" and name in ("models", "text"):
                return

    def report(self) -> dict[str, Any]:
        """What units it can answer, and the settings for that."""
        good = {name for name, state in self._states.items() if state != "bad"}
        able = {
            "span": "audio" in good,
            "clip": "frames of a long video" in good or "image" in good,
            "page": "image" in good,
            "reduce": "text" in good,
        }
        kinds = [kind for kind, is_able in able.items() if is_able]
        settings = {
            "OMNI_BACKEND": "remote",
            "OMNI_REMOTE_URLS": self._server.url,
            "OMNI_REMOTE_MODEL": self._checks.model,
        }
        settings |= self._found
        if len(kinds) < len(able):
            settings["OMNI_REMOTE_KINDS"] = ",".join(kinds)
        failed = [name for name, state in self._states.items() if state == "bad" and name not in REPLACEABLE]
        return {"ok": len(kinds) == len(able) and not failed, "kinds": kinds, "settings": settings if kinds else {}}


async def _try(url: str, settings: Settings) -> bool:
    server = Server(base_url(url), 1.0, 1)
    chat = Chat(settings, Servers([server]))
    try:
        trial = Trial(Checks(chat, server, settings), server)
        async for check in trial.run():
            print(json.dumps({"check": dataclasses.asdict(check)}), flush=True)
        report = trial.report()
        print(json.dumps({"report": report}), flush=True)
        return report["ok"]
    finally:
        await chat.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.backends.remote.trial", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--model", default="")
    arguments = parser.parse_args()
    settings = Settings()
    timeout_s = min(settings.remote_timeout_s, TIMEOUT_S)
    changes = {"remote_model": arguments.model or settings.remote_model, "remote_timeout_s": timeout_s}
    try:
        return 0 if asyncio.run(_try(arguments.url, settings.model_copy(update=changes))) else 1
    except UsageError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
