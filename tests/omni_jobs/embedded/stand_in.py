"""A supervisor over real servers whose programs are stand-ins: the API and a worker that do nothing.

python stand_in.py supervise [--linger S] [--grandchild]     the supervisor, of OMNI_HOME
python stand_in.py api | worker [--grandchild]               its programs
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import psycopg

from omni_jobs.embedded.client import OCCUPIED_STATUS
from omni_jobs.embedded.home import Occupied
from omni_jobs.embedded.programs import Program, Role
from omni_jobs.embedded.supervisor import serve
from omni_jobs.errors import OmniError
from omni_jobs.settings import Settings

TABLES = """
create schema if not exists omni;
create table if not exists omni.jobs (state text);
create table if not exists omni.notes (note text);
"""


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/ready" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def migrate(url: str, backup: object) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(TABLES)


def supervise(linger_s: float | None, grandchild: bool) -> int:
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    worker = (sys.executable, __file__, "worker", *(["--grandchild"] if grandchild else []))
    programs = [
        Program("api", Role.API, (sys.executable, __file__, "api")),
        Program("worker-cpu", Role.WORKER, worker),
    ]
    try:
        serve(Settings(), linger_s=linger_s, programs=programs, migrate=migrate)
    except OmniError as error:
        print(error, file=sys.stderr)
        return OCCUPIED_STATUS if isinstance(error, Occupied) else 1
    return 0


def work(grandchild: bool) -> None:
    if grandchild:
        subprocess.Popen(["sleep", "60"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        time.sleep(60)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["supervise", "api", "worker"])
    parser.add_argument("--linger", type=float)
    parser.add_argument("--grandchild", action="store_true")
    arguments = parser.parse_args()
    match arguments.part:
        case "supervise":
            return supervise(arguments.linger, arguments.grandchild)
        case "api":
            HTTPServer(("127.0.0.1", int(os.environ["OMNI_API_PORT"])), Health).serve_forever()
        case "worker":
            work(arguments.grandchild)
    return 0


if __name__ == "__main__":
    sys.exit(main())
