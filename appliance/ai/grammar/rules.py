"""Rules of grammars that are the same for every schema: JSON's own values, and the formats of times and ids. Pure."""

from __future__ import annotations

#: Rules that are used as they are. Escapes neither NUL nor half characters (surrogates).
RULES = {
    "ws": '" "?',
    "plain": r'[^"\\\x00-\x1F\x7F]',
    "char": r'plain | "\\" (["\\/bfnrt] | "u" ("00" [2-7] hex | "00" [A-Fa-f] hex | "0" [1-9A-Fa-f] hex hex | code))',
    "code": "[1-9A-Ca-cEeFf] hex hex hex | [Dd] [0-7] hex hex",
    "hex": "[0-9A-Fa-f]",
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "string | number | object | array | boolean | null",
    "object": '"{" (string ":" ws value ("," ws string ":" ws value)*)? "}"',
    "array": '"[" (value ("," ws value)*)? "]"',
    "year": "[1-9] [0-9]{3}",
    "date": 'year "-" (long31 "-" day31 | long30 "-" day30 | "02-" day28)',
    "long31": '"01" | "03" | "05" | "07" | "08" | "10" | "12"',
    "long30": '"04" | "06" | "09" | "11"',
    "day28": '"0" [1-9] | "1" [0-9] | "2" [0-8]',
    "day30": '"0" [1-9] | [12] [0-9] | "30"',
    "day31": '"0" [1-9] | [12] [0-9] | "3" [01]',
    "clock": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?',
    "zone": '"Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]',
    "uuid": "hex{8} " + " ".join(f'"-" hex{{{count}}}' for count in (4, 4, 4, 12)),
}
#: The rules of a text in one of JSON Schema's formats.
FORMATS = {"date": "date", "time": "clock zone", "date-time": 'date "T" clock zone', "uuid": "uuid"}
