"""Define all metrics of a node: base units, prefix ``tridetr_``, label ``camera``.

Instead of ages, the Unix time of the last event is exported: if a process dies, the age computed from it grows and does
not freeze at a small value.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# Fine enough to estimate p50 and p95 between 1 ms and 10 s to a few per cent
_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, multiprocess_mode="mostrecent")


# --- capture
FRAMES_PUBLISHED = Counter(
    "tridetr_frames_published_total", "Frames published to the frame ring.", ["camera"]
)
FRAMES_SKIPPED = Counter(
    "tridetr_frames_skipped_total",
    "Frames that were skipped, by reason (pacing, ring_full, superseded, corrupt, stale, lost, error, unchanged).",
    ["camera", "reason"],
)
DECODE_SECONDS = Histogram(
    "tridetr_decode_seconds",
    "Time to decode a packet into the planes of a slot.",
    ["camera"],
    buckets=_SECONDS,
)
RECONNECTS = Counter("tridetr_reconnects_total", "Times a source was reopened.", ["camera"])
CAMERA_STATE = _gauge(
    "tridetr_camera_state",
    "State of the camera: 0 starting, 1 live, 2 offline, 3 frozen, 4 ended, 5 blind.",
    "camera",
)
CAMERA_BLIND = _gauge(
    "tridetr_camera_blind",
    "1 while the camera cannot see, by reason (covered, dazzled, blurred, turned).",
    "camera",
    "reason",
)
PACKET_RING_ERRORS = Counter(
    "tridetr_packet_ring_errors_total",
    "Times the camera's own video could not be published; capture retries with growing delays.",
    ["camera"],
)
DECODER_BLOCKED = _gauge(
    "tridetr_decoder_blocked",
    "1 while the GPU does not decode the stream of a camera with `decode: gpu`; the log has the reason.",
    "camera",
)
LAST_FRAME = _gauge(
    "tridetr_last_frame_timestamp_seconds", "Unix time of the last published frame.", "camera"
)
JPEG_TOO_BIG = Counter(
    "tridetr_jpeg_too_big_total",
    "JPEGs that did not fit into the slot and were dropped.",
    ["camera"],
)

# --- detector
FRAMES_INFERRED = Counter(
    "tridetr_frames_inferred_total", "Frames with a published result.", ["camera"]
)
FRAME_AGE_SECONDS = Histogram(
    "tridetr_frame_age_seconds",
    "Time from capture until the detector takes the frame.",
    ["camera"],
    buckets=_SECONDS,
)
INFERENCE_SECONDS = Histogram(
    "tridetr_inference_seconds",
    "Time from the request to the server until its answer.",
    ["camera"],
    buckets=_SECONDS,
)
TOTAL_SECONDS = Histogram(
    "tridetr_total_seconds",
    "Time from when the detector takes the frame until the result is published.",
    ["camera"],
    buckets=_SECONDS,
)
INFERENCE_ERRORS = Counter(
    "tridetr_inference_errors_total", "Inferences that failed, by reason.", ["camera", "reason"]
)
BOXES_INVALID = Counter(
    "tridetr_boxes_invalid_total",
    "Boxes of the model that were dropped, because they are inverted, NaN or infinite.",
    ["camera"],
)
MOTION_GATE_LOOKS = Counter(
    "tridetr_motion_gate_looks_total",
    "Inferences in standby, by reason (motion, interval, learning, uncertain).",
    ["camera", "reason"],
)
MOTION_GATE_MISSED = Counter(
    "tridetr_motion_gate_missed_total",
    "Inferences on an unchanged picture (reason interval) that found an alarming object: the gate skipped it wrongly.",
    ["camera"],
)
DETECTIONS = Counter(
    "tridetr_detections_total", "Published detections, by class name.", ["camera", "class"]
)
DETECTOR_BLOCKED = _gauge(
    "tridetr_detector_blocked",
    "1 after a failed or late inference, or while the server is unavailable, until the next result.",
    "camera",
)
LAST_RESULT = _gauge(
    "tridetr_last_result_timestamp_seconds", "Unix time of the last published result.", "camera"
)
MODEL_INFO = _gauge(
    "tridetr_model_info",
    "Always 1; the labels show which model and engine are used.",
    "model",
    "engine",
    "provider",
    "precision",
)

# --- Triton
# With a label, so that it only exists where the node runs the embedded server
SERVER_HEALTHY = _gauge(
    "tridetr_triton_healthy", "1 after a successful inference of the embedded server.", "model"
)
MODEL_REFUSED = _gauge(
    "tridetr_triton_model_refused",
    "1 while the model file is missing or refused and the previous model is served.",
    "model",
)
SERVER_RESTARTS = Counter(
    "tridetr_triton_restarts_total", "Restarts of the embedded server, by reason.", ["reason"]
)

# --- controller
SENTRY_STATE = _gauge(
    "tridetr_sentry_state",
    "Sentry state: 0 unknown, 1 standby, 2 validation, 3 tracking.",
    "camera",
)
STATE_CHANGES = Counter(
    "tridetr_state_changes_total", "Changes of the sentry state, by new state.", ["camera", "to"]
)
EVENTS_PUBLISHED = Counter(
    "tridetr_events_published_total", "Events that the broker has confirmed.", ["camera", "kind"]
)
OUTBOX_DEPTH = _gauge("tridetr_outbox_depth", "Events that the broker has not confirmed yet.")
OUTBOX_DROPPED = Counter(
    "tridetr_outbox_dropped_total", "Oldest events dropped because the outbox was at its limit."
)
STORE_ERRORS = Counter(
    "tridetr_store_errors_total",
    "Failed writes of the sentry state or outbox, by reason (full, corrupt, stalled, other).",
    ["reason"],
)
NOTIFICATIONS = Counter(
    "tridetr_notifications_total",
    "Notifications by target and outcome: delivered, failed (an attempt, which is retried), dropped.",
    ["target", "outcome"],
)
NOTIFICATIONS_WAITING = _gauge(
    "tridetr_notifications_waiting", "Events that a target has not accepted yet.", "target"
)
ARMED = _gauge("tridetr_armed", "1 while armed: the node (camera empty), or a camera.", "camera")
RESULTS_MISSED = Counter(
    "tridetr_results_missed_total",
    "Results overwritten before the controller read them.",
    ["camera"],
)
PROBLEM = _gauge(
    "tridetr_problem",
    "1 while something keeps the node (camera empty) or a camera from watching or reporting: detector, outbox, disk, "
    "notify, broker, device, camera, classes.",
    "camera",
    "problem",
)
MQTT_CONNECTED = _gauge("tridetr_mqtt_connected", "1 while connected to the broker.")

# --- gateway
WATCHED = _gauge(
    "tridetr_watched",
    "1 while the camera is watched: frames, results and decisions are current.",
    "camera",
)
VIEWERS = _gauge("tridetr_viewers", "Open WebSockets.", "camera")
VIEWER_FRAMES = Counter("tridetr_viewer_frames_total", "Frames sent to viewers.", ["camera"])
VIEWER_FRAMES_DROPPED = Counter(
    "tridetr_viewer_frames_dropped_total", "Frames not sent to slow viewers.", ["camera"]
)
VIEWER_PACKETS = Counter(
    "tridetr_viewer_packets_total", "Packets of the camera's own video sent to viewers.", ["camera"]
)
FRAMES_ENCODED = Counter(
    "tridetr_frames_encoded_total", "Frames encoded to JPEG by the gateway.", ["camera"]
)

WRONG_TOKENS = Counter("tridetr_gateway_wrong_tokens_total", "Requests with a wrong token.")

# --- recorder
EVIDENCE_SAVED = Counter(
    "tridetr_evidence_saved_total",
    "Pictures and clips of visits that were saved.",
    ["camera", "kind"],
)
EVIDENCE_ERRORS = Counter(
    "tridetr_evidence_errors_total",
    "Pictures and clips that could not be saved, by reason (disk, missed, video).",
    ["camera", "reason"],
)
EVIDENCE_REMOVED = Counter(
    "tridetr_evidence_removed_total",
    "Visits removed to stay within the limits, by reason (age, size).",
    ["reason"],
)
EVIDENCE_BYTES = _gauge("tridetr_evidence_bytes", "Disk space of pictures and clips.")

# --- supervisor
STALLED = _gauge(
    "tridetr_stalled",
    "1 while a camera's frames are stuck, by what is missing (frames, results, decisions).",
    "camera",
    "stage",
)
PROCESS_RESTARTS = Counter(
    "tridetr_process_restarts_total", "Restarts by the supervisor.", ["process"]
)
