"""The tables of ``flowork.db`` as queries see them; ``migrations.py`` holds how they are made.

Times are Unix seconds (UTC) as REAL; yes/no columns are the integers 1 and 0.
"""

from __future__ import annotations

from appliance.store.sql import ColumnBase, TypedTable


class FlowTable(TypedTable):
    num: ColumnBase
    id: ColumnBase
    workspace: ColumnBase
    name: ColumnBase
    folded: ColumnBase
    folder: ColumnBase
    newest: ColumnBase
    live: ColumnBase
    enabled: ColumnBase
    created: ColumnBase
    updated: ColumnBase
    deleted: ColumnBase


class FlowTagTable(TypedTable):
    flow: ColumnBase
    tag: ColumnBase


class VersionTable(TypedTable):
    id: ColumnBase
    flow: ColumnBase
    number: ColumnBase
    body: ColumnBase
    hash: ColumnBase
    author: ColumnBase
    message: ColumnBase
    created: ColumnBase


class DeploymentTable(TypedTable):
    id: ColumnBase
    flow: ColumnBase
    action: ColumnBase
    before: ColumnBase
    after: ColumnBase
    who: ColumnBase
    at: ColumnBase


class UserTable(TypedTable):
    address: ColumnBase
    name: ColumnBase
    created: ColumnBase


class GrantTable(TypedTable):
    address: ColumnBase
    workspace: ColumnBase
    role: ColumnBase


class TokenTable(TypedTable):
    id: ColumnBase
    hash: ColumnBase
    name: ColumnBase
    address: ColumnBase
    workspace: ColumnBase
    scopes: ColumnBase
    created: ColumnBase
    expires: ColumnBase
    last_used: ColumnBase
    revoked: ColumnBase


class SessionTable(TypedTable):
    hash: ColumnBase
    address: ColumnBase
    created: ColumnBase
    expires: ColumnBase


class NonceTable(TypedTable):
    nonce: ColumnBase
    expires: ColumnBase


class VariableTable(TypedTable):
    workspace: ColumnBase
    name: ColumnBase
    value: ColumnBase
    updated: ColumnBase


class SecretTable(TypedTable):
    workspace: ColumnBase
    name: ColumnBase
    sealed: ColumnBase
    updated: ColumnBase


class StateTable(TypedTable):
    flow: ColumnBase
    key: ColumnBase
    value: ColumnBase
    ver: ColumnBase


class AuditTable(TypedTable):
    seq: ColumnBase
    time: ColumnBase
    actor: ColumnBase
    action: ColumnBase
    target: ColumnBase
    workspace: ColumnBase
    detail: ColumnBase
    prev: ColumnBase
    hash: ColumnBase


class SettingTable(TypedTable):
    name: ColumnBase
    value: ColumnBase


class CounterTable(TypedTable):
    name: ColumnBase
    value: ColumnBase


class NoteTable(TypedTable):
    name: ColumnBase
    value: ColumnBase


FLOW = FlowTable("flow")
FLOW_TAG = FlowTagTable("flow_tag")
VERSION = VersionTable("version")
DEPLOYMENT = DeploymentTable("deployment")
USER = UserTable("user_account")
GRANT = GrantTable("role_grant")
TOKEN = TokenTable("token")
SESSION = SessionTable("session")
NONCE = NonceTable("nonce")
VARIABLE = VariableTable("variable")
SECRET = SecretTable("secret")
STATE = StateTable("flow_state")
AUDIT = AuditTable("audit")
SETTING = SettingTable("setting")
COUNTER = CounterTable("counter")
NOTE = NoteTable("note")
