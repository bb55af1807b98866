"""HTTP cameras: non-conforming servers, refused logins, certificates, proxies and playlists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support.capture_rig import capturing
from support.clips import jpegs, write_clip
from support.http_camera import Request, http_camera
from support.mosquitto import make_certificates
from support.rtsp import rtsp_server
from support.waiting import slack, wait_for
from tridetr.capture.sources.av import open_video
from tridetr.errors import SourceError
from tridetr.shm.boards import CameraState

PICTURES = jpegs(10)
MULTIPART = "multipart/x-mixed-replace; boundary=frame"
Part = Callable[[bytes], bytes]


def streaming(content_type: str | None, part: Part) -> Callable[[Request], None]:
    """Return an answer that sends pictures indefinitely, at 25 per second."""

    def answer(request: Request) -> None:
        request.head(content_type)
        while True:
            for picture in PICTURES:
                request.send(part(picture))
                time.sleep(0.04)

    return answer


def live_playlist(*lines: str) -> bytes:
    """Return a playlist that changes with each call."""
    sequence = f"#EXT-X-MEDIA-SEQUENCE:{time.monotonic_ns()}"
    return "\n".join(["#EXTM3U", "#EXT-X-TARGETDURATION:2", sequence, *lines, ""]).encode()


def null_packet() -> bytes:
    """Return an MPEG-TS packet without data, a different one each time: a segment is not played twice."""
    return b"\x47\x1f\xff\x10" + time.monotonic_ns().to_bytes(184, "big")


def one_picture(request: Request) -> None:
    request.head("image/jpeg", Content_Length=str(len(PICTURES[0])))
    request.send(PICTURES[0])


HEADER = b"Content-Type: image/jpeg\r\n"
MANNERS: dict[str, tuple[str | None, Part]] = {
    "boundary after each picture": (MULTIPART, lambda p: HEADER + b"\r\n" + p + b"\r\n--frame\r\n"),
    "parts without headers": (MULTIPART, lambda p: b"--frame\r\n\r\n" + p + b"\r\n"),
    "too short a length": (
        MULTIPART,
        lambda p: b"--frame\r\n" + HEADER + b"Content-Length: 99\r\n\r\n" + p + b"\r\n",
    ),
    "too long a length": (
        MULTIPART,
        lambda p: b"--frame\r\n" + HEADER + b"Content-Length: 999999\r\n\r\n" + p + b"\r\n",
    ),
    "no line end before a boundary": (MULTIPART, lambda p: b"--frame\r\n" + HEADER + b"\r\n" + p),
    "no boundary named": (
        "multipart/x-mixed-replace",
        lambda p: b"--other\r\n" + HEADER + b"\r\n" + p + b"\r\n",
    ),
    "no content type": (None, lambda p: b"--frame\r\n" + HEADER + b"\r\n" + p + b"\r\n"),
    "plain text": ("text/plain", lambda p: b"\r\n--frame\r\n" + HEADER + b"\r\n" + p),
    "pictures only": ("application/octet-stream", lambda p: p),
    "motion JPEG": ("video/x-motion-jpeg", lambda p: p),
}


@pytest.mark.parametrize("manner", MANNERS)
def test_non_conforming_servers_are_supported(tmp_path: Path, manner: str) -> None:
    with http_camera(streaming(*MANNERS[manner])) as camera:
        with capturing(tmp_path, camera.url()) as rig:
            seen = {frame.jpeg for frame in rig.wait_frames(15)}
            assert (rig.skipped("corrupt"), len(camera.requests)) == (0, 1)
            status = rig.wait_state(CameraState.LIVE)
    assert seen <= set(PICTURES)
    assert (status.width, status.height) == (320, 240)


def test_snapshot_url_is_polled_at_the_configured_rate(tmp_path: Path) -> None:
    with http_camera(one_picture) as camera:
        with capturing(tmp_path, camera.url(), fps=20) as rig:
            rig.wait_frames(10)
            assert rig.wait_state(CameraState.LIVE).reconnects == 0
    assert len(camera.requests) >= 10


def test_web_page_is_reported(tmp_path: Path) -> None:
    def page(request: Request) -> None:
        request.head("text/html")
        request.send(b"<html>log in</html>")

    with http_camera(page) as camera, capturing(tmp_path, camera.url("/S3cret")) as rig:
        message = rig.wait_state(CameraState.OFFLINE).message
    assert "web page" in message
    assert "S3cret" not in message


def test_broken_chunks_are_reported(tmp_path: Path) -> None:
    def broken(request: Request) -> None:
        request.protocol_version = "HTTP/1.1"
        request.head(MULTIPART, Transfer_Encoding="chunked")
        request.send(b"%x\r\n" % len(PICTURES[0]) + PICTURES[0] + b"\r\n" + b"no length\r\n")

    with http_camera(broken) as camera, capturing(tmp_path, camera.url()) as rig:
        assert "broken HTTP" in rig.wait_state(CameraState.OFFLINE).message


class TestLogin:
    def refusing(self, challenge: str) -> Callable[[Request], None]:
        return lambda request: request.head(
            status=401, WWW_Authenticate=challenge, Content_Length="0"
        )

    @pytest.mark.parametrize("challenge", ['Basic realm="c"', 'Digest realm="c", nonce="1"'])
    def test_a_wrong_password_is_sent_once(self, tmp_path: Path, challenge: str) -> None:
        (tmp_path / "secret").write_text("admin:wrong")
        with http_camera(self.refusing(challenge)) as camera:
            with capturing(
                tmp_path, camera.url(), credentials_file=str(tmp_path / "secret")
            ) as rig:
                message = rig.wait_state(CameraState.OFFLINE).message
                attempts = len(camera.requests)
                time.sleep(3)  # five attempts took four seconds
                assert len(camera.requests) == attempts == 2
        assert "login refused" in message
        assert "wrong" not in message

    @pytest.mark.parametrize("kind", ["pictures", "segments"])
    def test_a_password_that_is_refused_later_is_sent_once_more(
        self, tmp_path: Path, kind: str
    ) -> None:
        """It was sent each second, which locks the account: a camera that is polled, or segments of HLS."""
        (tmp_path / "secret").write_text("admin:old")
        refused: list[str] = []

        def answer(request: Request) -> None:
            if request.path.endswith(".m3u8"):
                request.head("application/vnd.apple.mpegurl")
                request.send(live_playlist("#EXTINF:2,", f"{time.monotonic_ns()}.ts"))
            elif not request.path.endswith(".ts") and len(camera.requests) < 20:
                one_picture(request)
            elif "Authorization" not in request.headers:
                request.head(status=401, WWW_Authenticate='Basic realm="c"', Content_Length="0")
            else:
                refused.append(request.path)
                request.head(status=401, WWW_Authenticate='Basic realm="c"', Content_Length="0")

        path = "/list.m3u8" if kind == "segments" else "/now.jpg"
        with (
            http_camera(answer) as camera,
            capturing(
                tmp_path, camera.url(path), credentials_file=str(tmp_path / "secret"), fps=25
            ) as rig,
        ):
            wait_for(lambda: refused)
            wait_for(lambda: "login refused" in rig.wait_state(CameraState.OFFLINE).message)
            time.sleep(3)
            assert "login refused" in rig.wait_state(CameraState.OFFLINE).message
        assert len(refused) == 1

    def test_a_playlist_is_opened_again_at_once_if_no_password_was_sent(
        self, tmp_path: Path
    ) -> None:
        """Servers with tokens answer 403 when one has expired; the master playlist has the next one."""
        masters = []

        def answer(request: Request) -> None:
            if request.path == "/master.m3u8":
                masters.append(time.monotonic())
                request.head("application/vnd.apple.mpegurl")
                request.send(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlist.m3u8\n")
            elif request.path == "/list.m3u8":
                request.head("application/vnd.apple.mpegurl")
                request.send(live_playlist("#EXTINF:2,", f"{time.monotonic_ns()}.ts"))
            else:
                request.head(status=403, Content_Length="0")

        with (
            http_camera(answer) as camera,
            capturing(tmp_path, camera.url("/master.m3u8"), timeout_s=1),
        ):
            wait_for(lambda: len(masters) >= 2, 15)

    def test_wrong_rtsp_password_is_sent_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "secret").write_text("admin:wr0ng")
        clip = write_clip(tmp_path / "clip.mp4", 30)
        with rtsp_server(clip, "--user", "admin", "--password", "right") as server:
            with capturing(tmp_path, server.url, credentials_file=str(tmp_path / "secret")) as rig:
                status = rig.wait_state(CameraState.OFFLINE)
                time.sleep(3)  # as above
                assert rig.wait_state(CameraState.OFFLINE).reconnects == status.reconnects == 0
        assert "login refused" in status.message
        assert "wr0ng" not in caplog.text

    def test_another_host_gets_no_password(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("admin:word")
        with http_camera(self.refusing('Basic realm="other"')) as other:

            def redirect(request: Request) -> None:
                request.head(status=302, Location=other.url().replace("127.0.0.1", "localhost"))

            with (
                http_camera(redirect) as camera,
                capturing(tmp_path, camera.url(), credentials_file=str(tmp_path / "secret")) as rig,
            ):
                message = rig.wait_state(CameraState.OFFLINE).message
        assert [login for _, login in other.requests] == [""]
        assert "sent only to the configured host" in message

    @pytest.mark.parametrize(
        "copied", ["{path}", "/login?back={path_quoted}", "/?p=w%26+rd", "/?p=w%2526%20rd"]
    )
    def test_another_host_gets_no_password_in_the_url(self, tmp_path: Path, copied: str) -> None:
        (tmp_path / "secret").write_text("admin:w& rd")
        with http_camera(one_picture) as other:

            def redirect(request: Request) -> None:
                where = copied.format(path=request.path, path_quoted=quote(request.path))
                request.head(status=302, Location=other.url(where))

            with (
                http_camera(redirect) as camera,
                capturing(
                    tmp_path,
                    camera.url("/flv?p={password}"),
                    credentials_file=str(tmp_path / "secret"),
                ) as rig,
            ):
                message = rig.wait_state(CameraState.OFFLINE).message
        assert not other.requests
        assert "another host, port or scheme with the password in the URL" in message

    def test_a_redirect_of_the_second_request_is_refused(self, tmp_path: Path) -> None:
        """FFmpeg requests a recording again, and followed what the first request is not allowed to."""
        (tmp_path / "secret").write_text("admin:word")
        recording = write_clip(tmp_path / "clip.mp4", 30).read_bytes()
        with http_camera(one_picture) as other:

            def answer(request: Request) -> None:
                if len(camera.requests) % 2:
                    request.head("video/mp4", Content_Length=str(len(recording)))
                    request.send(recording)
                else:
                    request.head(status=302, Location=other.url(request.path))

            with http_camera(answer) as camera:
                with capturing(
                    tmp_path,
                    camera.url("/flv?p={password}"),
                    credentials_file=str(tmp_path / "secret"),
                ) as rig:
                    rig.wait_state(CameraState.OFFLINE)
                assert len(camera.requests) >= 2
            assert not other.requests

    def test_unreadable_password_file_is_reported(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        with http_camera(one_picture) as camera:
            with capturing(tmp_path, camera.url(), credentials_file=str(file)) as rig:
                assert "credentials_file" in rig.wait_state(CameraState.OFFLINE).message
                file.write_text("admin:word")
                rig.wait_frames(3)

    def test_placeholders_are_filled_in(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("admin:w&rd")
        with http_camera(streaming(*MANNERS["pictures only"])) as camera:
            with capturing(
                tmp_path,
                camera.url("/flv?user={user}&password={password}"),
                credentials_file=str(tmp_path / "secret"),
            ) as rig:
                rig.wait_frames(3)
        assert camera.requests[0] == ("/flv?user=admin&password=w%26rd", "")


class TestTls:
    @pytest.mark.parametrize("scheme", ["https", "rtsps"])
    def test_unknown_certificates_are_refused(self, tmp_path: Path, scheme: str) -> None:
        made = make_certificates(tmp_path / "tls")
        (tmp_path / "secret").write_text("admin:word")
        with http_camera(one_picture, (made.certificate, made.key)) as camera:
            with capturing(
                tmp_path, camera.url(scheme=scheme), credentials_file=str(tmp_path / "secret")
            ) as rig:
                message = rig.wait_state(CameraState.OFFLINE).message
            assert not camera.requests
        assert "certificate" in message
        assert "tls_ca_file" in message

    @pytest.mark.parametrize("trust", ["tls_ca_file", "tls_verify"])
    def test_trusted_certificates_are_accepted(self, tmp_path: Path, trust: str) -> None:
        made = make_certificates(tmp_path / "tls")
        keys = {"tls_ca_file": str(made.ca)} if trust == "tls_ca_file" else {"tls_verify": False}
        with http_camera(one_picture, (made.certificate, made.key)) as camera:
            with capturing(tmp_path, camera.url(scheme="https"), **keys) as rig:
                rig.wait_frames(3)

    def test_a_redirect_to_plain_http_is_refused(self, tmp_path: Path) -> None:
        made = make_certificates(tmp_path / "tls")
        (tmp_path / "secret").write_text("admin:word")
        with http_camera(one_picture) as plain:

            def redirect(request: Request) -> None:
                request.head(status=302, Location=plain.url())

            with http_camera(redirect, (made.certificate, made.key)) as camera:
                with capturing(
                    tmp_path,
                    camera.url(scheme="https"),
                    credentials_file=str(tmp_path / "secret"),
                    tls_ca_file=str(made.ca),
                ) as rig:
                    message = rig.wait_state(CameraState.OFFLINE).message
            assert not plain.requests
        assert f"leads to http://127.0.0.1:{plain.port}, which is not encrypted" in message

    def test_unverified_playlist_segments_are_refused(self, tmp_path: Path) -> None:
        known, unknown = make_certificates(tmp_path / "a"), make_certificates(tmp_path / "b")
        (tmp_path / "secret").write_text("admin:word")
        segment = write_clip(tmp_path / "clip.ts", 60).read_bytes()

        def part(request: Request) -> None:
            request.head("video/mp2t")
            request.send(null_packet() + segment)

        with (
            http_camera(part) as plain,
            http_camera(part, (unknown.certificate, unknown.key)) as other,
        ):
            where = [plain.url("/s.ts")]

            def playlist(request: Request) -> None:
                if request.path.endswith(".ts"):
                    part(request)
                    return
                request.head("application/vnd.apple.mpegurl")
                request.send(live_playlist("#EXTINF:2,", *where))

            with http_camera(playlist, (known.certificate, known.key)) as camera:
                with capturing(
                    tmp_path,
                    camera.url("/list.m3u8", "https"),
                    tls_ca_file=str(known.ca),
                    credentials_file=str(tmp_path / "secret"),
                ) as rig:
                    assert "not encrypted" in rig.wait_state(CameraState.OFFLINE).message
                    where[:] = [other.url("/s.ts", "https")]
                    wait_for(lambda: "certificate" in rig.wait_state(CameraState.OFFLINE).message)
                    assert not plain.requests
                    assert not other.requests
                    where[:] = ["/s.ts"]
                    rig.wait_frames(3)

    @pytest.mark.parametrize("scheme", ["http", "rtsp"])
    def test_plain_http_to_a_tls_port_is_reported(self, tmp_path: Path, scheme: str) -> None:
        made = make_certificates(tmp_path / "tls")
        with http_camera(one_picture, (made.certificate, made.key)) as camera:
            with capturing(tmp_path, camera.url(scheme=scheme), timeout_s=2) as rig:
                message = rig.wait_state(CameraState.OFFLINE).message
        assert f"write {scheme}s://" in message


def test_cameras_ignore_proxies_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("no_proxy", "elsewhere.test")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    clip = write_clip(tmp_path / "clip.ts", 100)

    def answer(request: Request) -> None:
        request.head("video/mp2t")
        request.send(clip.read_bytes())

    for serve in (one_picture, answer):
        with http_camera(serve) as camera, capturing(tmp_path, camera.url()) as rig:
            rig.wait_frames(3)


@pytest.mark.parametrize("tags", ["#EXT-X-STREAM-INF:BANDWIDTH=9", "#EXTINF:2,"])
def test_a_playlist_cannot_name_files_of_this_machine(tmp_path: Path, tags: str) -> None:
    clip = write_clip(tmp_path / "clip.ts", 60)

    def playlist(request: Request) -> None:
        request.head("application/vnd.apple.mpegurl")
        request.send(live_playlist(tags, clip.as_uri()))

    with http_camera(playlist) as camera, capturing(tmp_path, camera.url("/list.m3u8")) as rig:
        rig.wait_state(CameraState.OFFLINE)
        wait_for(lambda: len(camera.requests) >= 3, 30, "more attempts")
        assert not rig.frames


def test_only_the_best_variant_of_a_playlist_is_fetched(tmp_path: Path) -> None:
    segment = write_clip(tmp_path / "clip.ts", 60).read_bytes()

    def answer(request: Request) -> None:
        if request.path.endswith(".ts"):
            request.head("video/mp2t")
            request.send(null_packet() + segment)
            return
        request.head("application/vnd.apple.mpegurl")
        if request.path == "/master.m3u8":
            for name, size in (("low", "640x360"), ("high", "1280x720"), ("mid", "800x600")):
                variant = f"BANDWIDTH=1,RESOLUTION={size}\n{name}.m3u8\n"
                request.send(b"#EXTM3U\n" * (name == "low"))
                request.send(f"#EXT-X-STREAM-INF:{variant}".encode())
            return
        name = request.path.strip("/").partition(".")[0]
        request.send(live_playlist("#EXTINF:2,", f"{name}.ts"))

    with http_camera(answer) as camera, capturing(tmp_path, camera.url("/master.m3u8")) as rig:
        rig.wait_frames(5)
    asked = {path for path, _ in camera.requests}
    assert "/high.ts" in asked
    assert not any("low" in path or "mid" in path for path in asked)


def test_a_playlist_behind_a_redirect_is_asked_for_where_it_is_configured(tmp_path: Path) -> None:
    """It was read where the first redirect led to, with a token that had expired by then."""
    segment = write_clip(tmp_path / "clip.ts", 20).read_bytes()
    issued: list[str] = []

    def answer(request: Request) -> None:
        if request.path == "/list.m3u8":
            issued.append(f"/token{len(issued)}/list.m3u8")
            request.head(status=302, Location=issued[-1])
        elif request.path.endswith(".ts"):
            request.head("video/mp2t")
            request.send(null_packet() + segment)
        elif request.path == issued[-1]:
            request.head("application/vnd.apple.mpegurl")
            request.send(live_playlist("#EXTINF:0.7,", f"{time.monotonic_ns()}.ts"))
        else:
            request.head(status=403, Content_Length="0")

    with http_camera(answer) as camera, capturing(tmp_path, camera.url("/list.m3u8")) as rig:
        rig.wait_frames(5)
        asked = len(issued)
        wait_for(lambda: len(issued) >= asked + 3, slack(15), "the playlist")
        rig.wait_frames(5)
        assert rig.wait_state(CameraState.LIVE).reconnects == 0
    assert all(
        path == "/list.m3u8" or ".ts" in path or path in issued for path, _ in camera.requests
    )


@pytest.mark.parametrize("path", ["/live/list.m3u8", "/master.m3u8"])
def test_segments_are_next_to_the_playlist_that_a_redirect_leads_to(
    tmp_path: Path, path: str
) -> None:
    """They were requested next to the configured URL: the camera stayed offline with 404."""
    segment = write_clip(tmp_path / "clip.ts", 60).read_bytes()

    def answer(request: Request) -> None:
        if request.path == "/live/list.m3u8":
            request.head(status=302, Location="/session/7/list.m3u8")
        elif request.path == "/session/7/0.ts":
            request.head("video/mp2t")
            request.send(null_packet() + segment)
        elif request.path == "/session/7/list.m3u8":
            request.head("application/vnd.apple.mpegurl")
            request.send(live_playlist("#EXTINF:2,", "0.ts"))
        elif request.path == "/master.m3u8":
            request.head("application/vnd.apple.mpegurl")
            request.send(b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlive/list.m3u8\n")
        else:
            request.head(status=404)

    with http_camera(answer) as camera, capturing(tmp_path, camera.url(path)) as rig:
        rig.wait_frames(5)


def test_long_group_of_pictures_is_awaited_on_one_connection(tmp_path: Path) -> None:
    clip = write_clip(
        tmp_path / "clip.ts", 400, options={"g": "400", "bf": "0", "sc_threshold": "0"}
    )
    data = clip.read_bytes()
    key_frame_may_come: list[bool] = []

    def pieces() -> Iterator[bytes]:
        middle = len(data) // 188 // 4 * 188
        while not key_frame_may_come:
            for at in range(middle, len(data), 1316):
                yield data[at : at + 1316]
                if key_frame_may_come:
                    break
        while True:
            for at in range(0, len(data), 1316):
                yield data[at : at + 1316]

    def joined_in_the_middle(request: Request) -> None:
        request.head("video/mp2t")
        for piece in pieces():
            request.send(piece)
            time.sleep(0.02)

    with http_camera(joined_in_the_middle) as camera:
        with capturing(tmp_path, camera.url(), timeout_s=2) as rig:
            status = wait_for(
                lambda: (s := rig.status()) and "waiting for a key frame" in s.message and s, 30
            )
            time.sleep(3)  # longer than timeout_s
            assert rig.wait_state(CameraState.OFFLINE).reconnects == 0
            key_frame_may_come.append(True)
            rig.wait_frames(5)
            assert rig.wait_state(CameraState.LIVE).reconnects == 0
    assert status
    assert len(camera.requests) <= 2


class TestRtspRemedies:
    def test_udp_only_camera(self, tmp_path: Path) -> None:
        with rtsp_server(write_clip(tmp_path / "clip.mp4", 60), "--udp-only") as server:
            with capturing(tmp_path, server.url) as rig:
                assert "rtsp_transport: udp" in rig.wait_state(CameraState.OFFLINE).message
            for _ in range(2):  # each attempt, not only the first
                with pytest.raises(SourceError, match="rtsp_transport: udp"):
                    open_video(
                        server.url, shown="it", options={"rtsp_transport": "tcp"}, timeout_s=5
                    )

    def test_stream_without_video_is_reported(self, tmp_path: Path) -> None:
        audio = "( audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 pt=8 )"
        with rtsp_server("none", "--launch", audio) as server:
            with capturing(tmp_path, server.url) as rig:
                assert "no video" in rig.wait_state(CameraState.OFFLINE).message
