"""Everything that is generated from the schema: `python -m instructbooth.generate` writes it, `--check` compares.

CI runs the check: a schema change without its generated files is red.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from instructbooth.crd import CRD_NAME, crd

VALIDATIONS = "x-kubernetes-validations"
# What `instructbooth.reconcile.policies.invalid_spec` looks at: no rule of a schema could.
BY_THE_OPERATOR = (
    "What only the operator can see fails the job a moment later, with reason `InvalidSpec` and the field:",
    "",
    "- `spec.podTemplate.env` may not set what the operator sets (`INSTRUCTBOOTH_*`, `JOB_COMPLETION_INDEX`, `HOME`), "
    "nor one name twice.",
    "- `spec.podTemplate.volumes` may not have names that begin with `ib-`.",
    "- `spec.podTemplate.labels` may not set `instructbooth.io/*` or `app.kubernetes.io/managed-by`.",
    "- A pod has one token for the hub: all `tokenSecretRef` of a stage must be the same, and `HF_TOKEN` not be set "
    "beside it.",
)
HEADER = "# Generated from instructbooth/spec by `make generate`. Do not edit.\n"


def crd_yaml() -> str:
    """The CustomResourceDefinition as YAML, with a header that says where it comes from."""
    return HEADER + yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True)


def field_reference() -> str:
    """The API's fields as a Markdown document, from the same schema the API server validates with."""
    version = crd()["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    schema = root["properties"]
    lines = [
        "<!-- Generated from instructbooth/spec by `make generate`. Do not edit. -->",
        "# InstructBoothJob: every field",
        "",
        "Fields marked **required** have no default. Rules are checked at `kubectl apply`.",
    ]
    for part in ("spec", "status"):
        lines += ["", f"## {part}", "", "| field | type | default | meaning |", "|---|---|---|---|"]
        lines += list(_rows(schema[part], part))
    whole = [f"| `{rule.get('fieldPath', '.metadata')[1:]}` | {rule['message']} |" for rule in root[VALIDATIONS]]
    lines += ["", "## Rules", "", "| where | rule |", "|---|---|", *whole, *_rules(schema["spec"], "spec")]
    lines += ["", *BY_THE_OPERATOR]
    return "\n".join(lines) + "\n"


def _rows(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        required = name in schema.get("required", ())
        default = "**required**" if required else _code(child["default"]) if "default" in child else ""
        yield f"| `{where}` | {_type(child)} | {default} | {child.get('description', '')} |"
        yield from _rows(child.get("items", child), where + ("[]" if "items" in child else ""))


def _code(value: object) -> str:
    return f"`{value}`" if value != "" else ""


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    kind = str(schema.get("type", "any"))
    low, high = schema.get("minimum"), schema.get("maximum")
    left = ">" if schema.get("exclusiveMinimum") else "≥"
    right = "<" if schema.get("exclusiveMaximum") else "≤"
    bounds = [f"{left} {low}"] * (low is not None) + [f"{right} {high}"] * (high is not None)
    return f"{kind} {', '.join(bounds)}".strip()


def _rules(schema: dict[str, Any], path: str) -> Iterator[str]:
    for rule in schema.get(VALIDATIONS, ()):
        yield f"| `{path}{rule.get('fieldPath', '')}` | {rule['message']} |"
    for name, child in schema.get("properties", {}).items():
        yield from _rules(child.get("items", child), f"{path}.{name}")
        if "items" in child:
            yield from _rules({k: v for k, v in child.items() if k == VALIDATIONS}, f"{path}.{name}")


def outputs(root: Path) -> dict[Path, str]:
    """Path -> content of every generated file below the repository root."""
    return {
        root / "crds" / f"{CRD_NAME}.yaml": crd_yaml(),
        root / "charts" / "instructbooth" / "files" / "crd.yaml": crd_yaml(),
        root / "docs" / "reference.md": field_reference(),
    }


def main() -> None:
    """Write the generated files, or with --check exit 1 and name those that differ."""
    root = Path(__file__).resolve().parents[1]
    stale = [path for path, text in outputs(root).items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(
                f"{path.relative_to(root)} is not what the schema says; run `make generate` and commit", file=sys.stderr
            )
        sys.exit(bool(stale))
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outputs(root)[path])
        print(f"wrote {path.relative_to(root)}")


if __name__ == "__main__":
    main()
