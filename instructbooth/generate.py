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

HEADER = "# Generated from instructbooth/spec by `make generate`. Do not edit.\n"


def crd_yaml() -> str:
    """The CustomResourceDefinition as YAML, with a header that says where it comes from."""
    return HEADER + yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True)


def field_reference() -> str:
    """The API's fields as a Markdown document, from the same schema the API server validates with."""
    version = crd()["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    lines = [
        "<!-- Generated from instructbooth/spec by `make generate`. Do not edit. -->",
        "# InstructBoothJob: every field",
        "",
        "Fields marked **required** have no default. Rules are checked at `kubectl apply`.",
    ]
    for part in ("spec", "status"):
        lines += ["", f"## {part}", "", "| field | type | default | meaning |", "|---|---|---|---|"]
        lines += list(_rows(schema[part], part))
    rules = list(_rules(schema["spec"], "spec"))
    lines += ["", "## Rules", "", "| where | rule |", "|---|---|", *rules]
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
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"| `{path}{rule.get('fieldPath', '')}` | {rule['message']} |"
    for name, child in schema.get("properties", {}).items():
        yield from _rules(child.get("items", child), f"{path}.{name}")
        if "items" in child:
            yield from _rules({k: v for k, v in child.items() if k == "x-kubernetes-validations"}, f"{path}.{name}")


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
