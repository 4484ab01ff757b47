"""The image layout and the registry over it."""

import hashlib
import http.client
import json
import threading
from http.server import ThreadingHTTPServer

import pytest
from raising import images
from raising.layout import MANIFEST_TYPE, Layout
from raising.receiving import open_to_pushes
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


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def send(address, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(address, timeout=5)
    # An iterator of unknown length is sent in chunks, as buildah sends a layer.
    connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("Location")


def upload(address, data, digest):
    status, location = send(address, "POST", "/v2/instructbooth/app/blobs/uploads/")
    assert status == 202
    halves = iter([data[: len(data) // 2], data[len(data) // 2 :]])
    status, location = send(address, "PATCH", location, halves, **{"Transfer-Encoding": "chunked"})
    assert status == 202
    return send(address, "PUT", f"{location}?digest={digest}")[0]


def test_what_is_pushed_is_served(layout, registry):
    layer, config = b"layer" * 1000, b"{}"
    parts = {"config": {"digest": sha256(config)}, "layers": [{"digest": sha256(layer)}]}
    manifest = json.dumps(parts).encode()
    with open_to_pushes(layout) as address:
        assert send(address, "HEAD", f"/v2/instructbooth/app/blobs/{sha256(layer)}")[0] == 404
        assert [upload(address, data, sha256(data)) for data in (layer, config)] == [201, 201]
        assert send(address, "HEAD", f"/v2/instructbooth/app/blobs/{sha256(layer)}")[0] == 200
        assert send(address, "PUT", "/v2/instructbooth/app/manifests/dev", manifest)[0] == 201
    assert ask(registry, "/v2/instructbooth/app/manifests/dev")[2] == manifest
    assert ask(registry, f"/v2/instructbooth/app/blobs/{sha256(layer)}")[2] == layer
    assert layout.manifest_digest("pause") is not None
    assert not (layout.directory / "uploads").exists()


def test_a_blob_that_is_not_what_its_digest_says_is_refused(layout):
    with open_to_pushes(layout) as address:
        assert upload(address, b"damaged", sha256(b"whole")) == 400
    assert not layout.blob(sha256(b"whole")).exists()
    assert not layout.blob(sha256(b"damaged")).exists()


@pytest.fixture
def buildah(layout, tmp_path, monkeypatch):
    """A build storage with an image of three layers; where it was pushed to."""
    layers = [b"base", b"dependencies", b"project"]
    pushes = []

    def answer(verb, *words, log=None):
        if verb == "inspect":
            return json.dumps({"OCIv1": {"rootfs": {"diff_ids": [sha256(layer) for layer in layers]}}})
        pushes.append(words[-1].partition(":")[0])
        if words[-1].startswith("dir:"):
            folder = tmp_path / "pushed" / "app"
            parts = {"config": {"digest": sha256(b"{}")}, "layers": [{"digest": sha256(layer)} for layer in layers]}
            (folder / "manifest.json").write_text(json.dumps(parts))
            for data in (b"{}", *layers):
                (folder / sha256(data)[7:]).write_bytes(data)
        return ""

    monkeypatch.setattr(images, "_buildah", answer)
    monkeypatch.setattr(images, "LAYOUT", layout)
    monkeypatch.setattr(images, "CACHE", tmp_path)
    return layers, pushes


def test_an_image_of_which_only_the_last_layer_changed_is_not_written_again(buildah, layout, tmp_path):
    layers, pushes = buildah
    images._push("app")
    assert layout.manifest_digest("app") is not None
    assert not (tmp_path / "pushed" / "app").exists()  # a second copy of gigabytes
    layers[-1] = b"project, changed"
    images._push("app")
    layers[1] = b"dependencies, changed"
    images._push("app")
    assert pushes == ["dir", "docker", "dir"]
