"""A consumer in a process of its own: ``python -m tests.queue.worker FOLDER WORKERS STORAGE-OPTIONS-AS-JSON``.

Runs until its standard input ends.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from appliance.queue.consumer import start_consumer
from appliance.queue.storage import LeasedSqliteStorage
from appliance.queue.tasks import TaskQueue
from tests.queue.jobs import Jobs


def main(folder: str, workers: str, options: str) -> int:
    logging.basicConfig(level=logging.WARNING)
    path = Path(folder) / "queue.db"
    queue = TaskQueue("flowork", results=False, storage_class=LeasedSqliteStorage, path=path, **json.loads(options))
    Jobs(queue, Path(folder))
    consumer = start_consumer(queue, int(workers))
    sys.stdin.read()
    stopped = consumer.stop(10)
    queue.close()
    return 0 if stopped else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
