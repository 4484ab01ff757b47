"""Our images: built when what they are made of changed, kept in an OCI layout, pulled by the nodes layer by layer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from raising import mounts, receiving
from raising.layout import Layout
from raising.nodes import criclient
from raising.settings import (
    CACHE,
    CLUSTER_DIR,
    IMAGE_NAMES,
    LOGS,
    OPTIONAL_IMAGES,
    PROJECT_DIR,
    STATE,
    Node,
    image_tag,
)
from raising.shell import ClusterError, run, say, step, write_atomically
from raising.toolchain import binary

LAYOUT = Layout(CACHE / "registry")
#: Images of one binary that the Go builds make; the others come from Dockerfiles.
FROM_BINARIES = ("pause", "minio", *OPTIONAL_IMAGES)
_BASE = "docker.io/library/debian:bookworm-slim"
_MIRROR = "http://deb.debian.org/debian"
#: What each of the Dockerfile's targets copies; keep in step with the Dockerfile.
_SOURCES = {
    "operator": ("instructbooth", "operator"),
    "trainer": ("instructbooth", "trainer", "miniature"),
}
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_AUTHORITIES_IN_BUILD = "/run/build-authorities.crt"
_TEMPORARY = CACHE / "tmp"


def _files(name: str) -> Iterator[Path]:
    if name == "prometheus":
        yield CLUSTER_DIR / "images" / name / "Dockerfile"
        return
    shared = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE", "requirements/build.txt")
    yield from (PROJECT_DIR / path for path in (*shared, f"requirements/{name}.txt"))
    for folder in _SOURCES[name]:
        for directory, folders, files in os.walk(PROJECT_DIR / folder):
            folders[:] = sorted(set(folders) - {"__pycache__", "weights"})
            yield from (Path(directory) / file for file in sorted(files) if not file.endswith(".pyc"))


def content_hash(name: str) -> str:
    """A name for everything that an image is made of."""
    if name in FROM_BINARIES:
        return hashlib.sha256(str(binary(name).resolve()).encode()).hexdigest()
    digest = hashlib.sha256()
    for path in _files(name):
        digest.update(path.relative_to(PROJECT_DIR).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _stamp(name: str) -> Path:
    return CACHE / "image-stamps" / name


def _is_current(name: str) -> bool:
    stamp = _stamp(name)
    return stamp.exists() and stamp.read_text() == content_hash(name) and LAYOUT.manifest_digest(name) is not None


def _buildah(*words: str | Path, log: str | None = None) -> str:
    storage: list[str | Path] = [
        "--root",
        CACHE / "buildah",
        "--runroot",
        STATE / "buildah",
        "--storage-driver",
        "overlay",
    ]
    # Its temporary files are as large as a layer: they belong on the disk, not on a /tmp in memory.
    _TEMPORARY.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "TMPDIR": str(_TEMPORARY)}
    return run(["buildah", *storage, *words], env=env, log=LOGS / log if log else None)


def _ensure_base() -> None:
    """Make debian:bookworm-slim from Debian's packages, since no image registry can be counted on."""
    if _BASE in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    with step("base image from Debian's packages"), tempfile.TemporaryDirectory(dir=_TEMPORARY) as directory:
        root = Path(directory) / "root"
        command: list[str | Path] = ["debootstrap", "--variant=minbase", "bookworm", root, _MIRROR]
        run(command, log=LOGS / "debootstrap.log")
        for useless in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt/lists"):
            shutil.rmtree(root / useless)
            (root / useless).mkdir()
        for cached in (root / "var/cache/apt").rglob("*.*"):
            cached.unlink()
        (root / "etc/apt/sources.list").write_text(
            f"deb {_MIRROR} bookworm main\ndeb {_MIRROR} bookworm-updates main\n"
            "deb http://deb.debian.org/debian-security bookworm-security main\n"
        )
        container = _buildah("from", "scratch").strip()
        _buildah("add", container, root, "/")
        _buildah("config", "--cmd", "bash", container)
        _buildah("commit", "--rm", container, _BASE)


def _build_from_dockerfile(name: str) -> None:
    ours = name in _SOURCES
    words: list[str | Path] = ["--layers", "--isolation", "chroot", "--network", "host", "--pull-never"]
    if _AUTHORITIES.exists():
        words += ["--volume", f"{_AUTHORITIES}:{_AUTHORITIES_IN_BUILD}:ro"]
        for variable in ("PIP_CERT", "SSL_CERT_FILE"):
            words += ["--build-arg", f"{variable}={_AUTHORITIES_IN_BUILD}"]
    if ours:  # named, so that the tidying up below leaves this stage for the next build
        _buildah("bud", *words, "--tag", "tools", "--target", "tools", PROJECT_DIR, log=f"image-{name}-tools.log")
        _buildah("bud", *words, "--tag", name, "--target", name, PROJECT_DIR, log=f"image-{name}.log")
    else:
        _buildah("bud", *words, "--tag", name, CLUSTER_DIR / "images" / name, log=f"image-{name}.log")
    _buildah("rmi", "--prune")  # layers of former builds
    _push(name)


def _push(name: str) -> None:
    """Copy an image from the build storage to the layout: where only its last layer is new, that layer alone."""
    image = json.loads(_buildah("inspect", "--type", "image", name))
    if all(LAYOUT.blob(layer).exists() for layer in image["OCIv1"]["rootfs"]["diff_ids"][:-1]):
        # A push to a registry sends what is missing, but compresses it whatever one says.
        with receiving.open_to_pushes(LAYOUT) as address:
            words = ["--format", "oci", "--tls-verify=false", name, f"docker://{address}/instructbooth/{name}:dev"]
            _buildah("push", *words, log=f"image-{name}-push.log")
        return
    # A push to `dir:` writes layers as they are, but all of them: it empties the folder first.
    pushed = CACHE / "pushed" / name
    pushed.mkdir(parents=True, exist_ok=True)
    _buildah("push", "--disable-compression", name, f"dir:{pushed}", log=f"image-{name}-push.log")
    LAYOUT.adopt(name, pushed)
    shutil.rmtree(pushed)


def _forget_temporary() -> None:
    """Delete what a killed build left: layers half written, and the base image's folder with its /proc mounted."""
    mounts.remove([_TEMPORARY])
    if held := mounts.below([_TEMPORARY]):
        raise ClusterError(f"cannot unmount {held[0]}; do that first, its content must not be deleted")
    shutil.rmtree(_TEMPORARY, ignore_errors=True)


def build(names: Sequence[str]) -> None:
    """Build those of the named images whose content changed. A kill at any point is made good by the next call."""
    stale = [name for name in names if not _is_current(name)]
    if not stale:
        return
    LAYOUT.directory.mkdir(parents=True, exist_ok=True)
    if set(stale) - set(FROM_BINARIES):
        _forget_temporary()
        _buildah("rm", "--all")  # containers of a killed build; the storage is ours alone
        _ensure_base()
    for name in stale:
        wanted = content_hash(name)
        with step(f"image {name}"):
            if name in FROM_BINARIES:
                LAYOUT.add_single_binary(name, binary(name).resolve(), "65532:65532")
            else:
                _build_from_dockerfile(name)
        write_atomically(_stamp(name), wanted)
    if freed := LAYOUT.forget_unreferenced():
        say(f"  {freed / 1e6:.0f} MB of old layers deleted")


def _held(node: Node) -> dict[str, str]:
    """The image id behind each tag on a node."""
    lines = [line.split() for line in criclient(node, "images").splitlines()]
    return {tag: words[0] for words in lines for tag in words[1:]}


def _load_on(node: Node, names: Sequence[str]) -> None:
    held = _held(node)
    missing = [name for name in names if held.get(image_tag(name)) != LAYOUT.image_id(name)]
    if not missing:
        return
    with step(f"{node.name} pulls {', '.join(missing)}"):
        criclient(node, "pull", *(image_tag(name) for name in missing))
        criclient(node, "prune", *(image_tag(name) for name in (*IMAGE_NAMES, *OPTIONAL_IMAGES)))


def load(names: Sequence[str], nodes: Sequence[Node]) -> None:
    """Let these nodes pull what it lacks of the named images: only layers it has never seen travel."""
    for node in nodes:  # one after the other: a layer lies on the disk twice while it is unpacked
        _load_on(node, names)
