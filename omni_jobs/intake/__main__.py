"""`python -m omni_jobs.intake watch TARGET`: makes jobs of what appears in a folder or below an s3:// prefix."""

import argparse
import signal
import sys
import threading
from pathlib import Path

from pydantic import ValidationError

from omni_jobs import telemetry
from omni_jobs.blobs import open_blobs
from omni_jobs.broker import Bell
from omni_jobs.errors import OmniError
from omni_jobs.intake.bucket import Bucket
from omni_jobs.intake.folder import Folder
from omni_jobs.intake.lister import Lister, Watched
from omni_jobs.intake.submit import Intake
from omni_jobs.intake.terms import NONE, Terms
from omni_jobs.settings import Settings
from omni_jobs.store import open_database, schema
from omni_jobs.store.database import is_outage

# A call that hangs in a part that is down is left behind: whatever it did, the ledger knows.
STOP_TIMEOUT_S = 3.0
EXAMPLES = """examples:
  python -m omni_jobs.intake watch /srv/inbox
  python -m omni_jobs.intake watch s3://media/inbox --priority -10 --deadline +1d"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("omni_jobs.intake", formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    watch = verbs.add_parser(
        "watch", help=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    watch.add_argument("target", help="a folder, or s3://bucket/prefix")
    watch.add_argument("--priority", type=int, default=0, metavar="N", help="the higher goes first")
    watch.add_argument("--deadline", default="", metavar="TIME", help="a moment, or +2h from when a file is taken in")
    watch.add_argument("--on-gap", choices=("partial", "fail"), default="partial")
    given = parser.parse_args(arguments)
    terms = Terms(given.priority, given.deadline, given.on_gap)
    try:
        terms.fields()
        settings = Settings()  # pyright: ignore[reportCallIssue]
        telemetry.set_up(settings, process="watch")
        serve(given.target, settings, terms)
    except ValidationError as error:
        print(f"omni-jobs watch: a setting cannot be used: {error}", file=sys.stderr)
        return 2
    except OmniError as error:
        print(f"omni-jobs watch: {error}", file=sys.stderr)
        return 1
    return 0


def place_of(target: str, settings: Settings, terms: Terms = NONE) -> Watched:
    """
    Raises:
        UsageError: no folder, and no bucket that we read.
    """
    if target.startswith("s3://"):
        return Bucket(target, settings, terms)
    return Folder(Path(target), settings.max_upload_bytes, terms)


def serve(target: str, settings: Settings, terms: Terms = NONE) -> None:
    """Watch until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    place = place_of(target, settings, terms)
    db = open_database(settings.database_url, size=2, application="omni-jobs watch")
    while not stop.is_set():
        try:
            schema.require(db)
            break
        except Exception as error:
            if not is_outage(error):
                raise
            telemetry.get_logger().warning("watch.waits", error="the database does not answer")
            stop.wait(settings.poll_s)
    intake = Intake(db, open_blobs(settings), Bell(settings), settings)
    telemetry.get_logger().info("watch.started", watch=place.name)
    loop = threading.Thread(target=Lister(place, intake, settings, stop).run, name="watch", daemon=True)
    loop.start()
    # Python runs signal handlers between the slices.
    while loop.is_alive() and not stop.wait(0.5):
        pass
    loop.join(STOP_TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main())
