"""Sources of a camera that contain a password."""

from __future__ import annotations

SECRET = "S3cret"
LEAKS = [
    f"rtsp://admin:{SECRET}@camera/1",
    f"rtsp://admin:{SECRET[:2]}/{SECRET}@camera/1",
    f"rtsp://admin:12#{SECRET}@camera/1",
    f"rtsp://admin:12?{SECRET}@camera/1",
    f"rtsp://admin:a@{SECRET}@camera/1",
    f"rtsp://admin%3A{SECRET}@camera/1",
    f"rtsp://admin:{SECRET}/1",
    f"RTSP://admin:{SECRET}@camera/1",
    f"http://camera/flv?app=bcs&user=admin&password={SECRET}",
    f"http://camera/video.cgi?loginuse=admin&loginpas={SECRET}",
    f"http://camera/?usr=admin&PWD={SECRET}",
    f"http://camera/?p%61ssword={SECRET}",
    f"http://camera/?token={SECRET}",
    f"rtsp://camera/user=admin&password={SECRET}&channel=1.sdp",
    f"rtsp://camera/user=admin_password={SECRET}_channel=1_stream=0.sdp",
    f"http://[admin:{SECRET}@camera/1",
    f"http://camera/1 {SECRET}",
    f"rtsp:admin:{SECRET}@camera/1",
    f"rtsp:/admin:{SECRET}@camera/1",
    f"admin:{SECRET}@camera/1",
    f"camera/video?password={SECRET}",
    f"//admin:{SECRET}@camera/1",
]
