"""values.yaml, its schema and its documentation say the same."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

CHARTS = Path(__file__).resolve().parents[3] / "charts"
CHART = CHARTS / "instructbooth"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_readme", CHARTS / "generate_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def resolve(schema):
    return SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def test_schema_lists_every_value_and_nothing_else():
    def walk(values, schema, path):
        known = resolve(schema)
        assert known.get("type") == "object", path
        if "properties" not in known:
            return  # a map: its keys are the user's
        assert set(values) - set(known["properties"]) == set(), path
        # `global` is Helm's own; what only exists inside resources is Kubernetes'.
        gone = {name for name, said in known["properties"].items() if said.get("deprecated")}
        assert gone & set(values) == set(), path
        missing = set(known["properties"]) - set(values) - gone - {"global", "claims", "requests"}
        assert missing == set(), path
        for key, value in values.items():
            if isinstance(value, dict):
                walk(value, known["properties"][key], f"{path}.{key}")

    walk(VALUES, SCHEMA, "")


def test_schema_is_strict_everywhere():
    def walk(schema, path):
        if "properties" in schema:
            assert schema["additionalProperties"] is False, path
            for key, child in schema["properties"].items():
                walk(child, f"{path}.{key}")
        elif path not in {".global", ".operator.affinity"} and schema.get("type") == "object":
            assert "additionalProperties" in schema, path

    walk(SCHEMA, "")
    for name, definition in SCHEMA["definitions"].items():
        walk(definition, f"#{name}")


def test_readme_is_what_values_yaml_says(generator):
    text = (CHART / "README.md").read_text()
    assert generator.render(text, (CHART / "values.yaml").read_text()) == text, "run `make generate` and commit"


def test_generator_documents_values_and_names_the_undocumented(generator):
    found = generator.values("a:\n  # What b\n  # means.\n  b: 1\n  # C.\n  c: {d: x}\n")
    assert [(v.path, v.default, v.description) for v in found] == [
        ("a.b", "1", "What b means."),
        ("a.c", '{"d": "x"}', "C."),
    ]
    with pytest.raises(ValueError, match=r"line 2: a\.b has no comment"):
        generator.values("a:\n  b: 1\n")


def test_generated_secrets_keys_are_the_jobs_defaults():
    """What the chart's MinIO calls its keys is what a job looks for when it says nothing."""
    from instructbooth.spec.job import CredentialsSecretRef

    reference = CredentialsSecretRef(name="instructbooth-minio")
    template = (CHART / "templates/minio/secret.yaml").read_text()
    assert f"  {reference.access_key_field}: " in template
    assert f"  {reference.secret_key_field}: " in template


def test_versions_agree():
    project = (CHARTS.parent / "pyproject.toml").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in project
    assert chart["version"] == chart["appVersion"]
