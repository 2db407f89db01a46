"""Announcements in the form in which Zigbee2MQTT 2, ESPHome, Tasmota (9.3 by itself, and its older Home Assistant
form) and others send them, whole but for addresses. They are from those projects' own tests and documentation, and
from logs that their users have published.
"""

from __future__ import annotations

import re

_BRIDGE = '"availability":[{"topic":"zigbee2mqtt/bridge/state","value_template":"{{ value_json.state }}"}]'
_Z2M = '"origin":{"name":"Zigbee2MQTT","sw":"2.1.0","url":"https://www.zigbee2mqtt.io"}'
_WEATHER = (
    '"device":{"identifiers":["zigbee2mqtt_0x0017880104e45522"],"manufacturer":"Aqara","model":"Temperature and '
    'humidity sensor","model_id":"WSDCGQ11LM","name":"weather_sensor","via_device":"zigbee2mqtt_bridge_0x0012"}'
)

Z2M_TEMPERATURE = (
    "homeassistant/sensor/0x0017880104e45522/temperature/config",
    (
        f'{{{_BRIDGE},"default_entity_id":"sensor.weather_sensor_temperature",{_WEATHER},"device_class":"temperature",'
        f'"enabled_by_default":true,"object_id":"weather_sensor_temperature",{_Z2M},"state_class":"measurement",'
        '"state_topic":"zigbee2mqtt/weather_sensor","unique_id":"0x0017880104e45522_temperature_zigbee2mqtt",'
        '"unit_of_measurement":"°C","value_template":"{{ value_json[\\"temperature\\"] }}"}'
    ),
)
Z2M_HUMIDITY = (
    "homeassistant/sensor/0x0017880104e45522/humidity/config",
    (
        f'{{{_BRIDGE},{_WEATHER},"device_class":"humidity",{_Z2M},"state_class":"measurement","state_topic":'
        '"zigbee2mqtt/weather_sensor","unique_id":"0x0017880104e45522_humidity_zigbee2mqtt","unit_of_measurement":"%",'
        '"value_template":"{{ value_json[\\"humidity\\"] }}"}'
    ),
)
Z2M_CONTACT = (
    "homeassistant/binary_sensor/0x00158d00025ae0a1/contact/config",
    (
        f'{{{_BRIDGE},"device":{{"identifiers":["zigbee2mqtt_0x00158d00025ae0a1"],"name":"front_door"}},"device_class":'
        f'"door",{_Z2M},"payload_off":true,"payload_on":false,"state_topic":"zigbee2mqtt/front_door","unique_id":'
        '"0x00158d00025ae0a1_contact_zigbee2mqtt","value_template":"{{ value_json[\\"contact\\"] }}"}'
    ),
)
Z2M_PLUG = (
    "homeassistant/switch/0x0017880104e45524/switch/config",
    (
        '{"availability":[{"topic":"zigbee2mqtt/bridge/state","value_template":"{{ value_json.state }}"},{"topic":'
        '"zigbee2mqtt/plug/availability","value_template":"{{ value_json.state }}"}],"availability_mode":"all",'
        '"command_topic":"zigbee2mqtt/plug/set","device":{"identifiers":["zigbee2mqtt_0x0017880104e45524"],'
        '"name":"plug"},'
        f'"name":null,{_Z2M},"payload_off":"OFF","payload_on":"ON","state_topic":"zigbee2mqtt/plug","unique_id":'
        '"0x0017880104e45524_switch_zigbee2mqtt","value_template":"{{ value_json[\\"state\\"] }}"}'
    ),
)
Z2M_BULB = (
    "homeassistant/light/0x0017880104e45553/light/config",
    (
        f'{{{_BRIDGE},"brightness":true,"brightness_scale":254,"command_topic":"zigbee2mqtt/bulb/set","device":'
        '{"identifiers":["zigbee2mqtt_0x0017880104e45553"],"manufacturer":"Sengled","name":"bulb"},"effect":true,'
        f'"effect_list":["blink","breathe","okay"],"max_mireds":454,"min_mireds":250,"name":null,{_Z2M},'
        f'"schema":"json",'
        '"state_topic":"zigbee2mqtt/bulb","supported_color_modes":["xy","color_temp"],"unique_id":'
        '"0x0017880104e45553_light_zigbee2mqtt"}'
    ),
)
Z2M_BLIND = (
    "homeassistant/cover/0x0211000000000010/cover/config",
    (
        f'{{{_BRIDGE},"command_topic":"zigbee2mqtt/Office blind/set","device":{{"identifiers":'
        f'["zigbee2mqtt_0x0211000000000010"],"name":"Office blind"}},"name":null,{_Z2M},"position_template":'
        '"{{ value_json[\\"position\\"] }}","position_topic":"zigbee2mqtt/Office blind","set_position_template":'
        '"{ \\"position\\": {{ position }} }","set_position_topic":"zigbee2mqtt/Office blind/set",'
        '"state_closed":"CLOSE",'
        '"state_open":"OPEN","state_stopped":"STOP","state_topic":"zigbee2mqtt/Office blind","unique_id":'
        '"0x0211000000000010_cover_zigbee2mqtt","value_template":"{{ value_json[\\"state\\"] }}"}'
    ),
)
Z2M_THERMOSTAT = (
    "homeassistant/climate/0x0017882104a44559/climate/config",
    (
        "{\"action_template\":\"{% set values = {None:None,'idle':'idle','heat':'heating','cool':'cooling',"
        '\'fan_only\':\'fan\'} %}{{ values[value_json.running_state] }}","action_topic":"zigbee2mqtt/TRV",'
        f'{_BRIDGE},"current_temperature_template":"{{{{ value_json.local_temperature }}}}",'
        f'"current_temperature_topic":'
        '"zigbee2mqtt/TRV","device":{"identifiers":["zigbee2mqtt_0x0017882104a44559"],"name":"TRV"},"max_temp":"35",'
        '"min_temp":"5","mode_command_topic":"zigbee2mqtt/TRV/set/system_mode","mode_state_template":'
        '"{{ value_json.system_mode }}","mode_state_topic":"zigbee2mqtt/TRV","modes":["heat","auto","off"],"name":null,'
        f'{_Z2M},"preset_mode_command_topic":"zigbee2mqtt/TRV/set/preset","preset_mode_state_topic":"zigbee2mqtt/TRV",'
        '"preset_mode_value_template":"{{ value_json.preset }}","preset_modes":["schedule","manual","boost"],'
        '"temp_step":'
        '0.5,"temperature_command_topic":"zigbee2mqtt/TRV/set/current_heating_setpoint","temperature_state_template":'
        '"{{ value_json.current_heating_setpoint }}","temperature_state_topic":"zigbee2mqtt/TRV",'
        '"temperature_unit":"C",'
        '"unique_id":"0x0017882104a44559_climate_zigbee2mqtt"}'
    ),
)
Z2M_REMOTE = (
    "homeassistant/device_automation/0x0017880104e45520/action_single/config",
    (
        '{"automation_type":"trigger","device":{"identifiers":["zigbee2mqtt_0x0017880104e45520"],"name":"button"},'
        f'{_Z2M},"payload":"single","subtype":"single","topic":"zigbee2mqtt/button/action","type":"action"}}'
    ),
)
Z2M_EVENT = (
    "homeassistant/event/0x0017880104e45520/action/config",
    (
        f'{{{_BRIDGE},"device":{{"identifiers":["zigbee2mqtt_0x0017880104e45520"],"name":"button"}},"event_types":'
        f'["single","double","hold"],"name":"Action",{_Z2M},"state_topic":"zigbee2mqtt/button","unique_id":'
        '"0x0017880104e45520_action_zigbee2mqtt","value_template":"{% if value_json.action is defined and '
        "value_json.action %}{{ {'event_type': value_json.action} | to_json }}{% endif %}\"}"
    ),
)
Z2M_SELECT = (
    "homeassistant/select/0x0017880104e45561/power_on_behavior/config",
    (
        f'{{{_BRIDGE},"command_topic":"zigbee2mqtt/plug2/set/power_on_behavior","device":{{"identifiers":'
        f'["zigbee2mqtt_0x0017880104e45561"],"name":"plug2"}},"entity_category":"config",'
        f'"name":"Power-on behavior",{_Z2M},'
        '"options":["off","previous","on"],"state_topic":"zigbee2mqtt/plug2","unique_id":'
        '"0x0017880104e45561_power_on_behavior_zigbee2mqtt",'
        '"value_template":"{{ value_json[\\"power_on_behavior\\"] }}"}'
    ),
)

_GARAGE = (
    '"dev":{"ids":"78e36d645710","name":"Single Car Garage Door Opener","sw":"esphome v2023.10.4 Nov  7 2023, '
    '16:19:39","mdl":"esp32dev","mf":"espressif"}'
)
ESPHOME_DOOR = (
    "homeassistant/cover/single-car-gdo/door/config",
    (
        '{"dev_cla":"garage","pos_t":"esphome/single-car-gdo/cover/door/position/state","set_pos_t":'
        '"esphome/single-car-gdo/cover/door/position/command","name":"Door","stat_t":'
        '"esphome/single-car-gdo/cover/door/state","cmd_t":"esphome/single-car-gdo/cover/door/command","avty_t":'
        f'"esphome/single-car-gdo/status","uniq_id":"78e36d645710-cover-d27845ad",{_GARAGE}}}'
    ),
)
ESPHOME_RESTART = (
    "homeassistant/button/single-car-gdo/restart/config",
    (
        '{"dev_cla":"restart","name":"Restart","entity_category":"config","cmd_t":'
        '"esphome/single-car-gdo/button/restart/command","avty_t":"esphome/single-car-gdo/status","uniq_id":'
        f'"78e36d645710-button-ba0e8e32",{_GARAGE}}}'
    ),
)
ESPHOME_NUMBER = (
    "homeassistant/number/single-car-gdo/delay/config",
    (
        '{"min":0,"max":60,"step":0.5,"unit_of_meas":"s","name":"Delay",'
        '"stat_t":"esphome/single-car-gdo/number/delay/state",'
        '"cmd_t":"esphome/single-car-gdo/number/delay/command","avty_t":"esphome/single-car-gdo/status","uniq_id":'
        f'"78e36d645710-number-1",{_GARAGE}}}'
    ),
)

TASMOTA_RELAY = (
    "homeassistant/switch/877407_RL_1/config",
    (
        '{"name":"Tasmota Outside Plug","cmd_t":"~cmnd/POWER","stat_t":"~tele/STATE","val_tpl":"{{value_json.POWER}}",'
        '"pl_off":"OFF","pl_on":"ON","avty_t":"~tele/LWT","pl_avail":"Online","pl_not_avail":"Offline","uniq_id":'
        '"877407_RL_1","device":{"identifiers":["877407"],"connections":[["mac","D8:F1:5B:87:74:07"]]},"~":'
        '"tasmota_outdoor_plug/"}'
    ),
)
TASMOTA_CONFIG = (
    "tasmota/discovery/E09806F17F56/config",
    (
        '{"ip":"192.168.2.71","dn":"Tasmota","fn":["Tasmota",null,null,null,null,null,null,null],"hn":'
        '"tasmota-F17F56-8022","mac":"E09806F17F56","md":"Athom Plug V2","ty":0,"if":0,"ofln":"Offline",'
        '"onln":"Online",'
        '"state":["OFF","ON","TOGGLE","HOLD"],"sw":"10.1.0","t":"tasmota_F17F56","ft":"%prefix%/%topic%/","tp":["cmnd",'
        '"stat","tele"],"rl":[1,0,0,0,0,0,0,0],"swc":[-1,-1,-1,-1,-1,-1,-1,-1],"swn":[null,null,null,null,'
        "null,null,null,"
        'null],"btn":[0,0,0,0,0,0,0,0],"so":{"4":0,"11":0,"13":0,"17":0,"20":0,"30":0,"68":0,"73":0,"82":0,'
        '"114":0,"117":0'
        '},"lk":0,"lt_st":0,"sho":[0,0,0,0],"ver":1}'
    ),
)
TASMOTA_SENSORS = (
    "tasmota/discovery/E09806F17F56/sensors",
    (
        '{"sn":{"Time":"2023-06-24T08:39:31","ENERGY":{"TotalStartTime":"2023-06-24T08:32:22","Total":0.000,'
        '"Yesterday":'
        '0.000,"Today":0.000,"Power": 0,"ApparentPower": 0,"ReactivePower": 0,"Factor":0.00,"Voltage":233,'
        '"Current":0.000'
        '}},"ver":1}'
    ),
)

#: The form of one message a device, abbreviated, with a base topic and topics that all entities share.
DEVICE = (
    "homeassistant/device/0AFFD2/config",
    (
        '{"dev":{"ids":"ea334450945afc","name":"Kitchen","mf":"Bla electronics","mdl":"xya","sw":"1.0","sn":'
        '"ea334450945afc","hw":"1.0rev2"},"o":{"name":"bla2mqtt","sw":"2.1",'
        '"url":"https://bla2mqtt.example.com/support"},'
        '"~":"bla/kitchen","avty":[{"t":"~/online","pl_avail":"1","pl_not_avail":"0"}],'
        '"cmps":{"t":{"p":"sensor","dev_cla":'
        '"temperature","unit_of_meas":"°C","val_tpl":"{{ value_json.temperature}}","uniq_id":"temp01ae_t"},"fan":{"p":'
        '"fan","name":"Hood","cmd_t":"~/fan/set","stat_t":"~/fan","pct_cmd_t":"~/fan/speed/set",'
        '"pct_stat_t":"~/fan/speed",'
        '"spd_rng_max":4,"uniq_id":"fan01"}},"state_topic":"bla/kitchen/state","qos":2}'
    ),
)
#: A device takes one of its entities back by announcing nothing but its platform.
DEVICE_WITHOUT_FAN = (DEVICE[0], re.sub(r'\{"p":"fan",[^}]*\}', '{"p":"fan"}', DEVICE[1]))
