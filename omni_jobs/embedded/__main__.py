"""`python -m omni_jobs.embedded`: the supervisor as a process of its own."""

import argparse
import logging
import sys

from pydantic import ValidationError

from omni_jobs.embedded.client import OCCUPIED_STATUS, REFUSED_STATUS
from omni_jobs.embedded.home import Occupied
from omni_jobs.embedded.supervisor import serve
from omni_jobs.errors import OmniError, Refused
from omni_jobs.settings import Settings

EXAMPLES = """\
examples:
  python -m omni_jobs.embedded
  python -m omni_jobs.embedded --linger 10 --watch /srv/inbox
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m omni_jobs.embedded",
        description="Run the servers, the API and the workers of one OMNI_HOME until a signal comes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--linger", type=float, metavar="S", help="end S seconds after the last client has left")
    parser.add_argument("--watch", action="append", default=[], metavar="TARGET", help="a folder or bucket to take in")
    arguments = parser.parse_args()
    try:
        settings = Settings()
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        serve(settings, linger_s=arguments.linger, watch=arguments.watch)
    except Occupied as error:
        print(error, file=sys.stderr)
        return OCCUPIED_STATUS
    except Refused as error:
        print(error, file=sys.stderr)
        return REFUSED_STATUS
    except (OmniError, ValidationError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
