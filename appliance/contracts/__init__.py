"""The plug-in surface: everything a node or a trigger may know of Flowork.

A plug-in is one file in ``appliance/nodes/`` or ``appliance/triggers/`` (or in the same folders under
``FloworkData/packages/``). It imports this package and its own library and nothing else of ours; whatever
it needs at run time it receives as ``ctx``. The module docstring of a plug-in is its help text, its
``Config`` class is its form, its validation, its JSON Schema and its documentation.
"""

from __future__ import annotations

from appliance.contracts.config import (
    C,
    Code,
    Config,
    Duration,
    Expression,
    Graph,
    Problem,
    decode,
    seconds,
)
from appliance.contracts.devices import (
    Agent,
    AgentState,
    DeviceEvent,
    Devices,
    DeviceState,
    Options,
    driver_settings,
)
from appliance.contracts.errors import (
    Busy,
    ConfigError,
    ExpressionError,
    FlowError,
    NodeError,
    TimedOut,
)
from appliance.contracts.models import (
    ChatReply,
    ChatRequest,
    ModelFacts,
    Models,
    Vectors,
)
from appliance.contracts.plugins import (
    Committed,
    Context,
    Event,
    Node,
    RunEnded,
    Trigger,
    TriggerContext,
    WebRefusal,
    WebRequest,
    WebTrigger,
    World,
    driver_faults,
)
from appliance.contracts.results import (
    Effect,
    Out,
    Park,
    Pending,
    Result,
    Spawn,
    Wake,
)
from appliance.contracts.services import (
    Blobs,
    Done,
    Files,
    Http,
    HttpReply,
    Limits,
    Message,
    Mqtt,
    Sandbox,
    State,
)

__all__ = [
    "Agent",
    "AgentState",
    "Blobs",
    "Busy",
    "C",
    "ChatReply",
    "ChatRequest",
    "Code",
    "Committed",
    "Config",
    "ConfigError",
    "Context",
    "DeviceEvent",
    "DeviceState",
    "Devices",
    "Done",
    "Duration",
    "Effect",
    "Event",
    "Expression",
    "ExpressionError",
    "Files",
    "FlowError",
    "Graph",
    "Http",
    "HttpReply",
    "Limits",
    "Message",
    "ModelFacts",
    "Models",
    "Mqtt",
    "Node",
    "NodeError",
    "Options",
    "Out",
    "Park",
    "Pending",
    "Problem",
    "Result",
    "RunEnded",
    "Sandbox",
    "Spawn",
    "State",
    "TimedOut",
    "Trigger",
    "TriggerContext",
    "Vectors",
    "Wake",
    "WebRefusal",
    "WebRequest",
    "WebTrigger",
    "World",
    "decode",
    "driver_faults",
    "driver_settings",
    "seconds",
]
