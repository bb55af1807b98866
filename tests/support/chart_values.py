"""Values of the chart: the defaults, the examples, and values that use all of it."""

from __future__ import annotations

from typing import Any

import yaml

from support.chart import EXAMPLES

FULL: dict[str, Any] = {
    "nodes": [
        {
            "name": "full",
            "cameras": {
                "front_door": {"source": "/dev/video0", "width": 1280, "height": 720},
                "gate": {
                    "source": "rtsps://192.0.2.1/s",
                    "credentialsSecret": "gate-login",
                    "tls_ca_file": "/etc/tridetr/files/camera-ca/ca.crt",
                },
                "film": {"source": "/etc/tridetr/files/videos/street.mp4"},
            },
        }
    ],
    "files": [
        {"name": "camera-ca", "secret": {"secretName": "camera-ca"}},
        {"name": "videos", "persistentVolumeClaim": {"claimName": "videos"}},
    ],
    "gpu": {"enabled": True, "engineCache": {"enabled": True}},
    "config": {
        "model": {"name": "rfdetr_trt", "file": "/etc/tridetr/files/videos/model.onnx"},
        "triton": {"secret_file": "/etc/tridetr/files/camera-ca/triton-key"},
        "evidence": {"max_mib": 1000, "path": "/var/lib/tridetr/visits"},
        "notify": [
            {
                "name": "hook",
                "kind": "webhook",
                "url_file": "/etc/tridetr/notify/hook",
                "secret_file": "/etc/tridetr/notify/hook-key",
            }
        ],
    },
    "notify": {"secret": "notify"},
    "mqtt": {
        "username": "node",
        "passwordSecret": "mqtt-password",
        "tls": {"enabled": True, "secret": "mqtt-tls", "clientCertificate": True},
    },
    "broker": {"passwordSecret": "broker-passwd", "tls": {"secret": "broker-tls"}},
    "gateway": {"tokenSecret": "viewer", "ingress": {"enabled": True, "tlsSecret": "viewer-tls"}},
    "tracing": {"jaeger": {"enabled": True}},
    "security": {"supplementalGroups": [44]},
}
FLEET: dict[str, Any] = {
    "nodes": [],
    "daemonSet": {
        "enabled": True,
        "nodeSelector": {"tridetr/camera": "yes"},
        "cameras": {"cam": {"source": "/dev/video0"}},
    },
    "state": {"type": "hostPath"},
    "gpu": {"enabled": True, "engineCache": {"enabled": True}},
    "config": {"model": {"name": "rfdetr_trt"}},
    "devices": {"mode": "plugin", "resource": "smarter-devices/video0"},
}
COLLECTOR: dict[str, Any] = {
    "tracing": {
        "collector": {
            "enabled": True,
            "endpoint": "https://otlp.example.org",
            "headersSecret": "otlp",
        },
        "jaeger": {"enabled": True},
    },
    "gateway": {"tokenSecret": "viewer"},
    "networkPolicy": {"allowFrom": [{"team": "cameras"}]},
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "collector": COLLECTOR,
    "full": FULL,
    "fleet": FLEET,
    **{path.stem: yaml.safe_load(path.read_text()) for path in EXAMPLES},
}
