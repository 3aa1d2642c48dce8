"""The images on an engine: built with the engine's words passed on, found again, refused where they do not fit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentLacking
from harness.study import detect_device, provenance
from harness.study.environments import container, engine_errors, images
from harness.study.environments.container import Engine
from harness.study.environments.images import BuildOptions, Image, Images
from harness.terms import DeviceKind, Origin
from harness.units import human_bytes

OnLine = Callable[[str], None]


def build(root: Path, device: DeviceKind, options: BuildOptions, on_line: OnLine, host: str = "") -> str:
    """Build a device's image; the engine's words go to `on_line` as they come.

    Args:
        root: of the checkout.
        device: whose image.
        options: what is changed about the build.
        on_line: told what the engine does.
        host: address of the engine; empty: the one that the `docker` command would use.

    Returns:
        The image's id, a digest of its configuration and layers.

    Raises:
        EnvironmentLacking: no engine, no space, no base, or a step failed.
        UsageError: no wheelhouse where one was named.
    """
    engine = container.connect(images.load(root).minimum_api, host)
    try:
        return build_on(engine, root, device, options, on_line)
    finally:
        engine.close()


def build_on(engine: Engine, root: Path, device: DeviceKind, options: BuildOptions, on_line: OnLine) -> str:
    """As `build`, on an engine that is connected already."""
    known = images.load(root)
    name, image = known.for_device(device)
    _require_space(engine, image)
    with tempfile.TemporaryFile() as context:
        images.write_context(root, known, name, options, context)
        context.seek(0)
        for line in _build_lines(engine, root, known, name, options, context):
            on_line(line)
    return find(engine, root, name, device)


def _build_lines(
    engine: Engine, root: Path, known: Images, name: str, options: BuildOptions, context: Any
) -> Iterator[str]:
    facts = provenance.study_facts(root, "", Origin.MEASURED)
    commit = facts.git_commit + ("-dirty" if facts.git_dirty else "")
    answers = engine.build(
        context,
        dockerfile=images.dockerfile(name),
        tag=images.tag(name),
        buildargs=images.build_args(root, known, name, options, commit),
        network_mode="none" if options.wheelhouse is not None else None,
    )
    failure = ""
    for answer in answers:  # to the end also after a failure, so that the connection is given back
        failure = failure or str(answer.get("error", "")).strip()
        text = str(answer.get("stream") or answer.get("status") or "").strip()
        if text:
            yield text
    if failure:
        raise engine_errors.failed_build(failure, images.dockerfile(name))


def engine_summary(root: Path, device: DeviceKind) -> str:
    """One line about the engine and the device's image.

    Raises:
        EnvironmentLacking: as for a study in containers.
    """
    known = images.load(root)
    name, image = known.for_device(device)
    engine = container.connect(known.minimum_api)
    try:
        require_device(engine.information(), image)
        return f"engine {engine.version()}, image {find(engine, root, name, device)[:19]}"
    finally:
        engine.close()


def find(engine: Engine, root: Path, name: str, device: DeviceKind) -> str:
    """Id of the image built from this state of the checkout.

    Raises:
        EnvironmentLacking: there is none, or it is of another state.
    """
    there = "" if engine.is_local else f" --host {engine.where}"
    cure = f"./artifact build --device {device.value}{there}"
    image = engine.image(images.tag(name))
    if image is None:
        raise EnvironmentLacking("the image has not been built", where=images.tag(name), cure=cure)
    if image.labels.get(images.LABEL_CONTEXT) != images.context_sha256(root, name):
        what = "the image was built from another state of this checkout"
        raise EnvironmentLacking(what, where=images.tag(name), cure=cure)
    return image.image_id


def require_device(information: Mapping[str, Any], image: Image, root: Path | None = Path("/")) -> None:
    """Refuse an engine or a board that can't give an image its device.

    Args:
        information: what the engine tells of itself.
        image: of the device.
        root: stands for "/" of the engine's machine; None: not seen yet.

    Raises:
        EnvironmentLacking: no runtime `nvidia`, or a Jetson Linux whose driver does not fit.
    """
    if image.device in (DeviceKind.JETSON, DeviceKind.CUDA) and "nvidia" not in information.get("Runtimes", {}):
        where = str(information.get("Name", ""))
        raise EnvironmentLacking("the engine has no runtime `nvidia`", where=where, cure=engine_errors.RUNTIME_CURE)
    if not image.l4t_release or root is None:
        return
    release = detect_device.l4t_release(root)
    if release is None or release[0] != image.l4t_release:
        found = f"R{release[0]} revision {release[1]}" if release else "not told"
        what = f"Jetson Linux is {found}, the image is made for R{image.l4t_release}"
        raise EnvironmentLacking(what, where="/etc/nv_tegra_release", cure="install JetPack 6, or use --env native")


def _require_space(engine: Engine, image: Image) -> None:
    folder = Path(str(engine.information().get("DockerRootDir", "")))
    if not engine.is_local or not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    if free < image.needed_bytes:
        what = f"{human_bytes(free)} are free, a build takes {human_bytes(image.needed_bytes)}"
        raise EnvironmentLacking(
            what, where=str(folder), cure="free some space, for instance with `docker system prune`"
        )
