"""A validator for the part of JSON Schema (draft 2020-12) that our schemas use; an unknown keyword is an error."""

from __future__ import annotations

from typing import Any

ANNOTATIONS = {"$schema", "$id", "title", "description", "default", "examples", "$defs"}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "$") -> list[str]:
    """Every way in which ``value`` does not fit, each with its place."""
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword in ANNOTATIONS:
            continue
        if keyword == "$ref":
            found += problems(value, root["$defs"][rule.removeprefix("#/$defs/")], root, where)
        elif keyword == "anyOf":
            if all(problems(value, option, root, where) for option in rule):
                found.append(f"{where} fits no option")
        elif keyword == "enum":
            found += [] if value in rule else [f"{where}: {value!r} is none of {rule}"]
        elif keyword == "const":
            found += [] if value == rule else [f"{where}: {value!r} is not {rule!r}"]
        elif keyword == "type":
            right = isinstance(value, TYPES[rule]) and (rule == "boolean" or not isinstance(value, bool))
            found += [] if right else [f"{where} is no {rule}: {value!r:.60}"]
        elif keyword == "properties":
            for name, inner in rule.items():
                if isinstance(value, dict) and name in value:
                    found += problems(value[name], inner, root, f"{where}.{name}")
        elif keyword == "required":
            found += [f"{where} has no {name}" for name in rule if isinstance(value, dict) and name not in value]
        elif keyword == "additionalProperties":
            known = schema.get("properties", {})
            for name in value if isinstance(value, dict) else ():
                if name not in known:
                    found += problems(value[name], rule, root, f"{where}.{name}")
        elif keyword == "items":
            for i, item in enumerate(value if isinstance(value, list) else ()):
                found += problems(item, rule, root, f"{where}[{i}]")
        elif keyword == "prefixItems":
            for i, (item, inner) in enumerate(zip(value, rule, strict=False)):
                found += problems(item, inner, root, f"{where}[{i}]")
        elif keyword in ("minItems", "maxItems"):
            low, high = schema.get("minItems", 0), schema.get("maxItems", float("inf"))
            found += [] if low <= len(value) <= high else [f"{where} has {len(value)} items"]
        else:
            raise AssertionError(f"the validator does not know {keyword}")
    return found


def validate(value: Any, schema: dict[str, Any]) -> None:
    """Fail with every problem."""
    found = problems(value, schema, schema)
    assert not found, "; ".join(found[:5])
