"""GStreamer's RTSP server for tests, run by the system's Python (it needs gi, which is not on PyPI).

    /usr/bin/python3 rtsp_server.py FILE.mp4 [PORT] [--user NAME --password WORD]

Prints `port N` when it serves rtsp://127.0.0.1:N/video. Each client gets the file from its start, in real time, once.
Needs the Debian packages gir1.2-gst-rtsp-server-1.0, python3-gi, gstreamer1.0-plugins-good and -bad.
"""

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("port", nargs="?", type=int, default=0)
    parser.add_argument("--user")
    parser.add_argument("--password")
    parser.add_argument("--udp-only", action="store_true")
    parser.add_argument("--shared", action="store_true", help="one pipeline for all clients: live")
    parser.add_argument("--launch", help="another pipeline, its payloader named pay0")
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        options.launch
        or f'( filesrc location="{options.file}" ! qtdemux ! h264parse config-interval=-1 '
        "! rtph264pay name=pay0 pt=96 )"
    )
    factory.set_shared(options.shared)
    if options.udp_only:
        factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
    if options.user:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options.user, options.password), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_role("user")
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/video", factory)
    if server.attach(None) == 0:
        sys.exit(f"cannot listen on 127.0.0.1:{options.port}")
    print(f"port {server.get_bound_port()}", flush=True)
    GLib.MainLoop().run()


main()
