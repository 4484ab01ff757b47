"""What the operator is told by flags and environment."""

from __future__ import annotations

from typing import Any

import click
import pytest

from instructbooth_operator.main import _POD_DEFAULTS, _pod_defaults, main


def read(text: str) -> dict[str, Any]:
    return _pod_defaults(click.Context(main), main.params[0], text)


def test_what_all_training_pods_get() -> None:
    assert read("") == read("{}") == {}
    assert read('{"tolerations": [{"key": "a"}], "nodeSelector": {"b": "c"}}') == {
        "tolerations": [{"key": "a"}],
        "node_selector": {"b": "c"},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "must be an object of imagePullSecrets"),
        ('{"toleration": []}', "tolerations .list."),
        ('{"nodeSelector": []}', "nodeSelector .dict."),
        ('{"imagePullSecrets": "mirror"}', "imagePullSecrets .list."),
    ],
)
def test_what_is_something_else_is_refused_with_what_is_expected(text: str, said: str) -> None:
    assert len(_POD_DEFAULTS) == 3
    with pytest.raises(click.BadParameter, match=said):
        read(text)
