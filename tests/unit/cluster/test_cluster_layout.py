"""The image layout and the registry over it."""

import http.client
import threading
from http.server import ThreadingHTTPServer

import pytest
from raising.layout import MANIFEST_TYPE, Layout
from registry_server import Handler


@pytest.fixture
def layout(tmp_path):
    binary = tmp_path / "pause"
    binary.write_bytes(b"a binary")
    made = Layout(tmp_path / "layout")
    made.add_single_binary("pause", binary, "65532")
    return made


@pytest.fixture
def registry(layout):
    handler = type("TestHandler", (Handler,), {"layout": layout, "log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address
        server.shutdown()


def ask(address, path, method="GET"):
    connection = http.client.HTTPConnection(address[0], address[1], timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def test_the_same_binary_makes_the_same_image(layout, tmp_path):
    first = layout.manifest_digest("pause")
    layout.add_single_binary("pause", tmp_path / "pause", "65532")
    assert layout.manifest_digest("pause") == first is not None
    assert len(layout.index()) == 1


def test_an_image_that_lacks_a_blob_counts_as_missing(layout):
    layout.blob(layout.parts(layout.manifest_digest("pause"))[1]).unlink()
    assert layout.manifest_digest("pause") is None


def test_an_index_cut_short_by_a_kill_counts_as_empty(layout):
    (layout.directory / "index.json").write_text('{"manifests": [{"dig')
    assert layout.manifest_digest("pause") is None


def test_only_what_no_image_needs_is_forgotten(layout, tmp_path):
    stray = layout.blob("sha256:" + "0" * 64)
    stray.write_bytes(b"12345")
    assert layout.forget_unreferenced() == 5
    assert not stray.exists()
    assert layout.manifest_digest("pause") is not None


def test_a_digest_cannot_leave_the_folder(layout):
    with pytest.raises(ValueError, match="not a sha256 digest"):
        layout.blob("sha256:../../../etc/passwd")


def test_the_registry_serves_manifest_and_blobs(layout, registry):
    digest = layout.manifest_digest("pause")
    status, headers, body = ask(registry, "/v2/instructbooth/pause/manifests/dev")
    assert (status, headers["Content-Type"], headers["Docker-Content-Digest"]) == (200, MANIFEST_TYPE, digest)
    assert body == layout.blob(digest).read_bytes()
    for part in layout.parts(digest):
        path = f"/v2/instructbooth/pause/blobs/{part}"
        assert ask(registry, path)[2] == layout.blob(part).read_bytes()
        status, headers, body = ask(registry, path, "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) == layout.blob(part).stat().st_size


@pytest.mark.parametrize(
    "path",
    [
        "/v2/instructbooth/absent/manifests/dev",
        "/v2/library/pause/manifests/dev",
        "/v2/instructbooth/pause/manifests/latest",
        "/v2/instructbooth/pause/blobs/sha256:../../index.json",
    ],
)
def test_the_registry_has_nothing_else(registry, path):
    assert ask(registry, path)[0] == 404
