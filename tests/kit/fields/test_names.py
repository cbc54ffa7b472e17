from __future__ import annotations

import pytest

from nri_sync.api import Container
from nri_sync.kit.fields.names import container_name

__all__: list[str] = []

KUBERNETES = {"io.kubernetes.container.name": "web"}


@pytest.mark.parametrize(
    ("container", "name"),
    [
        (Container(name="web", labels={"io.kubernetes.container.name": "other"}), "web"),
        # CRI-O 1.34: in CreateContainer, and later.
        (Container(labels=KUBERNETES), "web"),
        # On CRI-O a pod's author can write any annotation of a container.
        (Container(annotations=KUBERNETES), ""),
        (Container(annotations={"io.kubernetes.cri.container-name": "web"}), ""),
        (Container(labels=KUBERNETES, annotations={"io.kubernetes.container.name": "x"}), "web"),
        (Container(), ""),
    ],
)
def test_names(container: Container, name: str) -> None:
    assert container_name(container) == name
    assert not container.labels.get("x"), "asking must not add any"
