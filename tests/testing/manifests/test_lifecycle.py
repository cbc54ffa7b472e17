"""Handlers in Go's notation."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.testing.manifests.lifecycle import go_json, lifecycle_handler
from nri_sync.testing.manifests.model import ManifestError
from tests.testing.manifests import fields

__all__: list[str] = []


# Printed by json.Marshal of Go 1.26 for v1.LifecycleHandler of Kubernetes v1.36.
@pytest.mark.parametrize(
    ("handler", "written"),
    [
        (
            {"exec": {"command": ["sh", "-c", "sleep 5 && nginx -s quit > /dev/null"]}},
            r'{"exec":{"command":["sh","-c","sleep 5 \u0026\u0026 nginx -s quit \u003e /dev/null"]}}',
        ),
        ({"exec": {}}, '{"exec":{}}'),
        ({"exec": {"command": ["\u2028<\u00e9\\"]}}, '{"exec":{"command":["\\u2028\\u003c\u00e9\\\\"]}}'),
        ({"httpGet": {"port": 80}}, '{"httpGet":{"port":80}}'),
        (
            {"httpGet": {"scheme": "HTTPS", "httpHeaders": [{"value": "b", "name": "a"}], "host": "h",
                         "port": "web", "path": "/stop?a=1&b"}},
            (
                r'{"httpGet":{"path":"/stop?a=1\u0026b","port":"web","host":"h","scheme":"HTTPS",'
                '"httpHeaders":[{"name":"a","value":"b"}]}}'
            ),
        ),
        ({"tcpSocket": {"host": "h", "port": 1}}, '{"tcpSocket":{"port":1,"host":"h"}}'),
        ({"sleep": {"seconds": 0}}, '{"sleep":{"seconds":0}}'),
        ({"exec": None, "sleep": {"seconds": 5, "unknown": 1}}, '{"sleep":{"seconds":5}}'),
    ],
)  # fmt: skip
def test_handlers(handler: Any, written: str) -> None:
    assert go_json(lifecycle_handler(fields(handler))) == written


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        ({}, "must have one of exec, httpGet, tcpSocket, sleep, and has none"),
        ({"exec": {}, "sleep": {}}, "and has exec, sleep"),
        ({"exec": {"command": "sh"}}, "exec.command: must be a list"),
        ({"httpGet": {"port": []}}, "httpGet.port: must be a whole number, not a list"),
    ],
)
def test_an_invalid_handler_is_refused(handler: Any, problem: str) -> None:
    with pytest.raises(ManifestError, match=problem):
        lifecycle_handler(fields(handler))
