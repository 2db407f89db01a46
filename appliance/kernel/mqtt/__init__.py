"""MQTT for flows: shared publish connections and durable subscriptions.

``docs/decisions/mqtt-client.md`` says why this is a client of our own. Importing this package loads no
network code: the hub does that, and starts its one thread, on first use.
"""

from appliance.kernel.mqtt.hub import MqttHub

__all__ = ["MqttHub"]
