"""The engine's HTTP side: identity, API, webhooks, live events, the panel. Runs no node.

Every endpoint is a function in ``nouns/``, declared once (see :mod:`appliance.gateway.routing`): who may call it,
what it takes and what it answers. One place (:mod:`appliance.gateway.guard`) enforces that for all of them,
and the OpenAPI document is made from the same declarations. A new noun is a new file there.
"""
