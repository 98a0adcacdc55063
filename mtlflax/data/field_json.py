"""Fields as JSON: what a run records about its data set, for prediction to know the classes and the unit."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mtlflax.data.source import Class, Depth, Field, Image, Labels, Map, Number
from mtlflax.data.units import Unit

KINDS: dict[str, type[Field]] = {kind.kind: kind for kind in (Image, Labels, Depth, Map, Number)}


def to_json(fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return fields as JSON, which `from_json` reads.

    >>> fields = {"image": Image(), "edges": Labels((Class("none", (0, 0, 0)), Class("edge", (255, 0, 0))))}
    >>> from_json(to_json(fields)) == fields
    True
    """
    return {
        name: {"kind": field.kind} | {key: _json_number(v) for key, v in dataclasses.asdict(field).items()}
        for name, field in fields.items()
    }


def _json_number(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become strings, which `float` reads."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def from_json(content: Mapping[str, Any]) -> dict[str, Field]:
    """Return the fields that `to_json` wrote; ValueError for an unknown kind, or attributes that it does not have."""
    fields: dict[str, Field] = {}
    for name, entry in content.items():
        attributes: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
        kind = attributes.pop("kind", None)
        if kind not in KINDS:
            raise ValueError(f"field {name!r} is of an unknown kind {kind!r}: choose from {', '.join(KINDS)}")
        try:
            attributes |= {key: float(attributes[key]) for key in ("least", "most", "unknown") if key in attributes}
            if "unit" in attributes:
                attributes["unit"] = Unit(**attributes["unit"])
            if "classes" in attributes:
                attributes["classes"] = tuple(Class(**c | {"color": tuple(c["color"])}) for c in attributes["classes"])
            fields[name] = KINDS[kind](**attributes)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"field {name!r}: {error}") from error
    return fields
