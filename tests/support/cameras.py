"""A camera to feed from: it sends ever lighter pictures to the first client that connects to its URL, `tcp://` or `rtsp://`.

`python -m tests.support.cameras URL`
"""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np

ROOT = Path(__file__).parents[2]
LEVELS = np.arange(40, 240, 8)
SIZE = (64, 96)
RATE = 10
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 0 RTP/AVP 32\r\na=control:video\r\n"
"""The description of a stream of MPEG video, which needs no further parameters."""


@contextmanager
def camera(scheme: str = "rtsp") -> Iterator[str]:
    """The URL of a camera that sends its pictures once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen([sys.executable, "-m", "tests.support.cameras", url], cwd=ROOT)
    try:
        give_up = time.monotonic() + 60
        while not _listens(url):
            assert time.monotonic() < give_up and process.poll() is None
            time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


def _listens(url: str) -> bool:
    """Whether a port of this machine is taken, without a connection: a camera has one client."""
    port = int(url.rpartition(":")[2])
    return any(
        f":{port:04X} " in line.split(None, 3)[1] + " " for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
    )


def send_pictures(address: str, kind: str, codec: str) -> None:
    with av.open(address, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=RATE)
        (stream.height, stream.width), stream.pix_fmt, stream.bit_rate = SIZE, "yuv420p", 8_000_000
        for level in LEVELS:
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
            if kind == "rtp":
                time.sleep(1 / RATE)  # RTP drops frames that are not received in time
        container.mux(stream.encode(None))


def serve_rtsp(host: str, port: int) -> None:
    """Answer one client as an RTSP server (RFC 2326) until all pictures have been sent."""
    with socket.create_server((host, port)) as listening, listening.accept()[0] as caller:
        requests, to = caller.makefile("r", newline="\r\n"), ""
        for line in requests:
            headers = dict(re.findall(r"(\S+): (.*)", "".join(iter(requests.readline, "\r\n"))))
            answer, body = ["RTSP/1.0 200 OK", f"CSeq: {headers['CSeq'].strip()}", "Session: 1"], ""
            match line.split()[0]:
                case "DESCRIBE":
                    body = SDP
                    answer += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
                case "SETUP":
                    transport = headers["Transport"].strip()
                    to = f"rtp://{host}:{transport.partition('client_port=')[2].partition('-')[0]}"
                    answer += [f"Transport: {transport};server_port=5000-5001"]
            caller.sendall("\r\n".join([*answer, "", body]).encode())
            if line.startswith("PLAY"):
                return send_pictures(to, "rtp", "mpeg2video")


if __name__ == "__main__":
    url = urlsplit(sys.argv[1])
    if url.scheme == "rtsp":
        serve_rtsp(str(url.hostname), url.port or 554)
    else:
        send_pictures(f"{sys.argv[1]}?listen=1", "mpegts", "mpeg4")
