"""`python -m workers cpu | gpu | io | maintain`: one worker process; `serve-model`: the model by OpenAI's API."""

import argparse
import os
import sys


def main() -> int:
    if sys.argv[1:2] == ["serve-model"]:
        from workers.serving import command

        return command.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m workers",
        description="Run one worker process. Settings come from OMNI_ variables.",
        epilog="examples:\n  python -m workers cpu\n  OMNI_LOG_FORMAT=json python -m workers gpu\n"
        "  python -m workers serve-model --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pool", choices=("cpu", "gpu", "io", "maintain"), help="what to work for; serve-model has help of its own"
    )
    pool = parser.parse_args().pool

    from omni_jobs.settings import Settings

    settings = Settings()
    # Read by the numeric libraries when they load.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
    os.environ["HF_HUB_OFFLINE"] = "1"

    from omni_jobs.errors import OmniError

    try:
        if pool == "maintain":
            from workers import maintain

            maintain.serve(settings)
        else:
            from omni_jobs.job import Pool
            from workers import tasks

            tasks.serve(settings, Pool(pool))
    except OmniError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
