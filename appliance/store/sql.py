"""The one module that imports peewee; the rest of the store builds its queries from what is named here.

peewee imports every database driver it finds at once. With psycopg and PyMySQL installed (the ``database``
node uses them) that costs 24 MB and 0.1 s in each of our processes although SQLite needs neither, so they
are hidden while it loads.
"""

from __future__ import annotations

import sys
from typing import Any

_DRIVERS = frozenset({"psycopg2cffi", "psycopg2", "psycopg", "pymysql", "MySQLdb"})


class _HideDrivers:
    """A meta path finder for which the drivers are not installed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name in _DRIVERS:
            raise ModuleNotFoundError(f"{name} is hidden while peewee loads", name=name)


sys.meta_path.insert(0, _HideDrivers)
try:
    from peewee import (
        EXCLUDED,
        JOIN,
        ColumnBase,
        Expression,
        Insert,
        Node,
        PeeweeException,
        PostgresqlDatabase,
        Psycopg3Adapter,
        Query,
        Select,
        SqliteDatabase,
        Table,
        fn,
    )
finally:
    sys.meta_path.remove(_HideDrivers)

__all__ = [
    "EXCLUDED",
    "JOIN",
    "ColumnBase",
    "Expression",
    "Insert",
    "Node",
    "PeeweeException",
    "PostgresqlDatabase",
    "Psycopg3Adapter",
    "Query",
    "Select",
    "SqliteDatabase",
    "TypedTable",
    "fn",
]


class TypedTable(Table):
    """A table whose columns are the annotations of its class, so that a misspelt column is a type error."""

    def __init__(self, name: str) -> None:
        super().__init__(name, columns=tuple(type(self).__annotations__))
