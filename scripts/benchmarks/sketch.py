"""The least that a durable sensor-to-action flow can be, as a measure for the real engine: run as a program.

paho with manual acknowledgement, a compiled sandboxed template, one transaction with one sync for all that waits,
then the acknowledgements and the publications. No flows, no history, no retries, no templates in topics.

    python -m scripts.benchmarks.sketch BROKER_PORT DATABASE_FILE
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import sqlite3
import sys
from typing import Any

import paho.mqtt.client as paho
from jinja2.sandbox import SandboxedEnvironment
from paho.mqtt.enums import CallbackAPIVersion

BATCH = 256


def main(port: int, database: str) -> None:
    """Serve until killed."""
    inbox: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
    client = paho.Client(CallbackAPIVersion.VERSION2, manual_ack=True)
    client.max_inflight_messages_set(1000)
    client.on_message = lambda _client, _data, message: inbox.put(message)
    client.on_socket_open = _no_delay
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("in/#", 1)
    jinja = SandboxedEnvironment()
    hot, say = jinja.compile_expression("payload.t > 30"), jinja.from_string("{{ payload.n }} at {{ payload.t }} °C")
    journal = sqlite3.connect(database, isolation_level=None)
    journal.execute("PRAGMA journal_mode = WAL")
    journal.execute("PRAGMA synchronous = FULL")
    journal.execute("CREATE TABLE run (id INTEGER PRIMARY KEY, payload BLOB, said TEXT)")
    while True:
        batch = [inbox.get()]
        with contextlib.suppress(queue.Empty):
            while len(batch) < BATCH:
                batch.append(inbox.get_nowait())
        payloads = [(message, json.loads(message.payload)) for message in batch]
        said = [(message, say.render(payload=payload)) for message, payload in payloads if hot(payload=payload)]
        journal.execute("BEGIN")
        rows = [(message.payload, text) for message, text in said]
        journal.executemany("INSERT INTO run (payload, said) VALUES (?, ?)", rows)
        journal.execute("COMMIT")
        for message in batch:
            client.ack(message.mid, message.qos)
        for message, text in said:
            client.publish(f"out/{message.topic}", text, qos=1)


def _no_delay(_client: paho.Client, _data: object, link: Any) -> None:
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
