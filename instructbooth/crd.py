"""The CustomResourceDefinition, written from the pydantic models: structural OpenAPI v3, defaults and CEL rules.

What differs between JSON Schema (pydantic) and a structural schema (Kubernetes) is translated here and nowhere else:
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from instructbooth.contract import GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from instructbooth.spec.base import ApiModel
from instructbooth.spec.job import InstructBoothJobSpec, RunPolicy
from instructbooth.spec.status import InstructBoothJobStatus

Schema = dict[str, Any]

CRD_NAME = f"{PLURAL}.{GROUP}"
PRINTER_COLUMNS = (
    ("Phase", "string", ".status.phase", "Where the job stands."),
    ("Stage", "string", ".status.stage", "Stage that runs, or ran last."),
    ("Progress", "string", ".status.progress", "Progress of the stage and the time left."),
    ("Reward", "string", ".status.reward", "Mean reward; at the end the headline metric."),
    ("Age", "date", ".metadata.creationTimestamp", "Time since creation."),
)
# The API server stores a job's name in labels of its children, so it must fit one.
MAX_NAME_LENGTH = 63
FROZEN = "cannot be changed after creation; delete the job or create another one"


def crd() -> Schema:
    """The CustomResourceDefinition of InstructBoothJob as a plain object."""
    spec = structural(InstructBoothJobSpec)
    for name in map(to_camel, RunPolicy.frozen):
        _add_rule(
            spec["properties"]["runPolicy"],
            rule=f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            message=FROZEN,
            fieldPath=f".{name}",
        )
    status = structural(InstructBoothJobStatus)
    status["properties"]["conditions"] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    root: Schema = {
        "type": "object",
        "description": "Teaches a text-to-image model a new subject and keeps it obedient (arXiv 2312.03011).",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [
            {
                "rule": f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
                "message": f"metadata.name must have at most {MAX_NAME_LENGTH} characters: it labels the pods",
            },
            _frozen_spec(spec),
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD_NAME},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "description": text}
                        for name, kind, path, text in PRINTER_COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def _frozen_spec(spec: Schema) -> Schema:
    """The rule that a spec stays as it is, `mutable` fields aside.

    It stands at the root for the sake of speed. A request changes status or spec, never both: of what comes to the
    status the API server takes nothing else, and of any other request it takes no status. So where the status differs
    the spec does not, and need not be compared; that was two fifths of a status patch's time.
    """
    names = [to_camel(name) for name in InstructBoothJobSpec.model_fields if name not in InstructBoothJobSpec.mutable]
    same = {name: f"self.spec.{name} == oldSelf.spec.{name}" for name in names}
    for name in names:
        if name not in spec["required"] and "default" not in spec["properties"][name]:
            raise TypeError(f"spec.{name} may be absent, and the rule would fail to compare it")
    culprit = " : ".join(f"!({same[name]}) ? '{name}'" for name in names[:-1]) + f" : '{names[-1]}'"
    return {
        "rule": "has(self.status) != has(oldSelf.status) || (has(self.status) && self.status != oldSelf.status) || "
        f"({' && '.join(same.values())})",
        "message": f"all but runPolicy {FROZEN}",
        "messageExpression": f"'spec.' + ({culprit}) + ' {FROZEN}'",
        "fieldPath": ".spec",
    }


def structural(model: type[BaseModel]) -> Schema:
    """The structural OpenAPI v3 schema of a model, with its rules as x-kubernetes-validations."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}), _rules_by_name())


def _rules_by_name() -> dict[str, type[ApiModel]]:
    found: dict[str, type[ApiModel]] = {}
    queue: list[type[ApiModel]] = [ApiModel]
    while queue:
        cls = queue.pop()
        found[cls.__name__] = cls
        queue.extend(cls.__subclasses__())
    return found


def _convert(node: Schema, defs: dict[str, Schema], models: dict[str, type[ApiModel]]) -> Schema:
    """One node of JSON Schema to one node of structural schema; `defs` are inlined, there are no references."""
    if "$ref" in node:
        target = defs[node["$ref"].rsplit("/", 1)[-1]]
        node = {**target, **{k: v for k, v in node.items() if k != "$ref"}}
    if "anyOf" in node:
        return _convert_union(node, defs, models)
    out: Schema = {k: node[k] for k in ("description", "type", "enum", "pattern", "format", "multipleOf") if k in node}
    out |= {
        k: node[k] for k in node if k.startswith(("minLength", "maxLength", "minItems", "maxItems", "maxProperties"))
    }
    if "const" in node:
        out["enum"] = [node["const"]]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if bound in node:
            out[bound] = node[bound]
        if exclusive in node:
            out |= {bound: node[exclusive], exclusive: True}
    if node.get("default") is not None:
        out["default"] = node["default"]
    if "properties" in node:
        out["properties"] = {name: _convert(child, defs, models) for name, child in node["properties"].items()}
        if node.get("required"):
            out["required"] = node["required"]
        if "default" in out:
            # Whole, not {} for the API server to fill in: it checks the rules against the default as written.
            out["default"] = {name: child["default"] for name, child in out["properties"].items() if "default" in child}
    elif node.get("type") == "object":
        values = node.get("additionalProperties", True)
        if isinstance(values, dict) and values:
            values = _convert(values, defs, models)
        if isinstance(values, dict) and values.keys() & {"type", "x-kubernetes-int-or-string"}:
            out["additionalProperties"] = values
        else:
            # Core/v1 objects and plug-in parameters are kept as they are: as maps of anything. Of two objects that
            # preserve unknown fields themselves CEL compares only the fields that both have: a spec could be changed.
            out["additionalProperties"] = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
    if "items" in node:
        out["items"] = _convert(node["items"], defs, models)
    owner = models.get(node.get("title", "")) if "properties" in node else None
    for rule in owner.all_rules() if owner else ():
        _add_rule(out, rule=rule.cel, message=rule.message, **({"fieldPath": "." + rule.field} if rule.field else {}))
    return out


def _convert_union(node: Schema, defs: dict[str, Schema], models: dict[str, type[ApiModel]]) -> Schema:
    """Optional values lose their null; a quantity becomes int-or-string. Other unions are not structural."""
    rest = {k: v for k, v in node.items() if k != "anyOf"}
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    if len(options) == 1:
        return _convert({**options[0], **rest}, defs, models)
    if {option.get("type") for option in options} == {"integer", "string"}:
        # Bounds of one member stand beside the union: they apply to values of their own type alone.
        bounds = {k: option[k] for option in options for k in ("minimum", "pattern", "maxLength") if k in option}
        return {
            **{k: rest[k] for k in ("description",) if k in rest},
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            **bounds,
        }
    raise TypeError(f"not expressible in a structural schema: {node}")


def _add_rule(schema: Schema, **rule: str) -> None:
    schema.setdefault("x-kubernetes-validations", []).append(rule)
