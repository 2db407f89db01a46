"""The step of the runs' schema that lets several kernels and gateways share the database."""

from __future__ import annotations

CLUSTER = (
    # Gateways have numbers too, since they make ids of runs; `place` tells one installation from another. `ready`: its
    # holder has come up. `ended`: it left, or was taken over from.
    """ALTER TABLE kernel_lease ADD role TEXT COLLATE "C" NOT NULL DEFAULT 'kernel',
        ADD place TEXT COLLATE "C" NOT NULL DEFAULT '', ADD ready TIMESTAMPTZ, ADD ended TIMESTAMPTZ""",
    # The one kernel that holds a flow's triggers, values and runs under way.
    "CREATE TABLE flow_home (flow BIGINT PRIMARY KEY, writer SMALLINT NOT NULL, since TIMESTAMPTZ NOT NULL)",
    "CREATE INDEX flow_home_of ON flow_home (writer)",
    # Shows a machine that wants to join whether its keys are those of the others; nobody can make the keys of it.
    'CREATE TABLE cluster_key (one BOOLEAN PRIMARY KEY CHECK (one), proof TEXT COLLATE "C" NOT NULL)',
)
