"""The schema of the runs in Postgres, as numbered steps. Never edit a step that was released: add the next one.

Tables of a run's data are partitioned by day, that is by ranges of run ids, which carry their time: retention drops a
partition. What must be unique over days (``event_key``) or outlives them (``blob``) is not partitioned.
"""

from __future__ import annotations

from appliance.store.postgres.cluster_schema import CLUSTER
from appliance.store.schema import Migration

#: The partitioned tables, with the column that holds the run's id.
DAILY = {"run": "id", "chunk": "run", "blob_use": "run", "letter_note": "run"}
#: SQLSTATEs of our own, raised by the functions below.
LEASE_LOST, EVENT_TAKEN = "FW001", "FW002"

_RUNS = (
    """CREATE TABLE run (
        id BIGINT PRIMARY KEY,
        flow BIGINT NOT NULL, version BIGINT NOT NULL, place TEXT COLLATE "C" NOT NULL,
        state SMALLINT NOT NULL, accepted BIGINT NOT NULL, finished BIGINT,
        trigger TEXT COLLATE "C" NOT NULL, event BYTEA NOT NULL, error BYTEA,
        parent BIGINT, origin BIGINT, letter SMALLINT NOT NULL DEFAULT 0, steps BYTEA NOT NULL,
        owner SMALLINT) PARTITION BY RANGE (id)""",
    """CREATE TABLE chunk (
        run BIGINT NOT NULL, seq INTEGER NOT NULL, data BYTEA NOT NULL,
        PRIMARY KEY (run, seq)) PARTITION BY RANGE (run)""",
    """CREATE TABLE blob_use (
        hash TEXT COLLATE "C" NOT NULL, run BIGINT NOT NULL,
        PRIMARY KEY (hash, run)) PARTITION BY RANGE (run)""",
    """CREATE TABLE letter_note (
        run BIGINT PRIMARY KEY, at BIGINT NOT NULL, who TEXT COLLATE "C" NOT NULL,
        reason TEXT COLLATE "C" NOT NULL) PARTITION BY RANGE (run)""",
    "CREATE INDEX run_flow ON run (flow, id)",
    "CREATE INDEX run_under_way ON run (owner, id) WHERE state < 10",
    "CREATE INDEX run_not_good ON run (state, id) WHERE state > 10",
    "CREATE INDEX run_letter ON run (id) WHERE letter = 1",
    "CREATE INDEX run_child ON run (parent, id) WHERE parent IS NOT NULL",
    "CREATE INDEX run_origin ON run (origin) WHERE origin IS NOT NULL",
    # Ids of events come from strangers: bytes, since a text cannot hold everything that they may send.
    "CREATE TABLE event_key (key BYTEA PRIMARY KEY, run BIGINT NOT NULL)",
    "CREATE INDEX event_key_run ON event_key (run)",
    """CREATE TABLE kernel_lease (
        writer SMALLINT PRIMARY KEY, epoch BIGINT NOT NULL, until TIMESTAMPTZ NOT NULL,
        machine TEXT COLLATE "C" NOT NULL, since TIMESTAMPTZ NOT NULL)""",
    # In the transaction of a commit. The lock, which a taker-over takes alone, keeps the epoch as it is until the
    # commit has ended, without a write to the lease's row.
    f"""CREATE FUNCTION hold_lease(mine SMALLINT, held BIGINT) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock_shared(1718185074, mine);
        IF NOT EXISTS (SELECT 1 FROM kernel_lease WHERE writer = mine AND epoch = held) THEN
            RAISE EXCEPTION 'the lease of writer % is somebody else''s', mine USING ERRCODE = '{LEASE_LOST}';
        END IF;
    END $$""",
    # Waits for another kernel that is about to commit the same key; in the order of the keys, so that no two wait for
    # each other.
    f"""CREATE FUNCTION claim_keys(keys BYTEA[], runs BIGINT[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO event_key SELECT key, run FROM unnest(keys, runs) AS mine(key, run) ORDER BY key
            ON CONFLICT DO NOTHING;
        IF EXISTS (SELECT 1 FROM unnest(keys, runs) AS mine(key, run)
                   JOIN event_key ON event_key.key = mine.key WHERE event_key.run <> mine.run) THEN
            RAISE EXCEPTION 'an event has its run already' USING ERRCODE = '{EVENT_TAKEN}';
        END IF;
    END $$""",
    # Large values; a piece is 1 MiB at most, since the server handles a value as a whole.
    """CREATE TABLE blob (
        digest BYTEA PRIMARY KEY, size BIGINT NOT NULL, used DOUBLE PRECISION NOT NULL)""",
    """CREATE TABLE blob_piece (
        digest BYTEA NOT NULL REFERENCES blob (digest) ON DELETE CASCADE,
        number INTEGER NOT NULL, data BYTEA NOT NULL, PRIMARY KEY (digest, number))""",
    "ALTER TABLE blob_piece ALTER COLUMN data SET STORAGE EXTERNAL",
)

RUN_MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "first schema of the runs", (), _RUNS),
    Migration(2, "kernels and gateways that share the database", (), CLUSTER),
)
