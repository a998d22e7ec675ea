"""`python -m tests.faults.nursery`: forks worker processes of a process that has imported everything.

A worker takes seconds of CPU to import; a test that kills hundreds would measure that. Each line on stdin, `{"number",
"pool", "env", "log"}`, starts one; lines on stdout say `{"number", "pid"}` and, when it has ended, `{"pid", "status"}`.
"""

import json
import os
import signal
import sys
import threading
from typing import Any


def work(order: dict[str, Any]) -> None:
    """Become the worker. Never returns."""
    os.environ.update(order["env"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.setsid()
    from omni_jobs import failpoints

    failpoints.arm(os.environ["OMNI_FAILPOINTS"])
    from omni_jobs.job import Pool
    from omni_jobs.settings import Settings
    from tests.faults import clock, fake
    from workers import infer, maintain, prepare, tasks

    prepare.probe, prepare._cut = fake.probe, fake.cut
    infer.media_of = fake.media_of
    if by_s := float(os.environ.get("FAKE_CLOCK_S") or 0):
        clock.make_wrong(by_s)
    code = 1
    try:
        if order["pool"] == "maintain":
            maintain.serve(Settings())
        else:
            tasks.SLOTS[Pool.CPU] = tasks.SLOTS[Pool.IO] = int(os.environ.get("FAKE_SLOTS", "4"))
            tasks.serve(Settings(), Pool(order["pool"]))
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    from tests.faults import fake  # noqa: F401
    from workers import maintain, tasks  # noqa: F401

    lock = threading.Lock()

    def tell(**said: Any) -> None:
        with lock:
            print(json.dumps(said), flush=True)

    def wait(pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        tell(pid=pid, status=status)

    tell(ready=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        if (pid := os.fork()) == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            work(order)
        tell(number=order["number"], pid=pid)
        threading.Thread(target=wait, args=(pid,), daemon=True).start()


if __name__ == "__main__":
    main()
