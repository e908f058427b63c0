"""The figures and images that steps and handlers log, each a PNG in the run's directory."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from igniter import atomic
from igniter.errors import UsageError

_LONGEST = 80
_CHANNELS = ((), (1,), (3,), (4,))
_NOT_SAFE = re.compile(r"^\.|[^A-Za-z0-9_. -]")


class Figures:
    """What a run has drawn, below one directory: ``<engine>/<name>/iteration-<8 digits>.png``.

    An iteration that runs again after a stop draws the same once more: nothing is written. Where
    it differs that is reported once, and the first one stays.
    """

    def __init__(self, directory: Path, warn: Callable[[str], None]) -> None:
        self._directory = directory
        self._warn = warn
        self._written: dict[str, int] = {}
        self._reported: set[str] = set()

    def save(self, engine: str, name: str, iteration: int, png: bytes) -> None:
        """Keep ``png`` as the ``name`` of an engine, ``train`` or an evaluation, at ``iteration``.

        What cannot be written is warned of once; training goes on.

        Raises:
            UsageError: ``name`` is no text, or empty.
        """
        if not isinstance(name, str) or not name:
            raise UsageError(f"{name!r} cannot be the name of a figure; give a text like confusion")
        name = f"{engine}/{name}"
        path = self._directory / safe_path(name) / f"iteration-{iteration:08d}.png"
        twice = self._written.get(name) == iteration
        self._written[name] = iteration
        try:
            if not path.exists():
                atomic.make_directory(path.parent)
                atomic.write_bytes(path, png)
            elif not _same_pixels(path.read_bytes(), png):
                self._report_difference(name, iteration, twice)
        except OSError as error:
            self._report(
                "not written",
                f"the figure {path} was not written: {error.strerror}. Training goes on without it",
            )

    def _report_difference(self, name: str, iteration: int, twice: bool) -> None:
        if twice:
            self._report(
                "twice",
                f"{name} was logged twice at iteration {iteration}: the first one stays. Give each "
                "figure a name of its own, or log it once, from a handler",
            )
        else:
            self._report(
                "differs",
                f"the figure {name} of iteration {iteration} is not what it was before the run was "
                "stopped. Likely causes: changed code, data or library versions, nondeterministic "
                "kernels (try --deterministic), or a time or path drawn in it. The first one stays",
            )

    def _report(self, kind: str, text: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._warn(text)


def safe_path(name: str) -> str:
    """``name`` as a path: ``/`` separates directories, what is unsafe in a file's name becomes _.

    Two names never become one: a changed name ends in a part of its checksum.
    """
    return "/".join(map(_safe_part, name.split("/")))


def _safe_part(part: str) -> str:
    safe = _NOT_SAFE.sub("_", part)[:_LONGEST]
    if safe and safe == part:
        return safe
    return f"{safe}-{hashlib.sha256(part.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def figure_png(figure: Any) -> bytes:
    """A matplotlib figure as PNG, with nothing in it that differs between two drawings.

    Raises:
        UsageError: it is something else.
    """
    if not hasattr(figure, "savefig"):
        raise UsageError(
            f"log_figure takes a matplotlib figure, not {type(figure).__name__}; arrays, tensors "
            "and PIL images go to log_image"
        )
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def image_png(image: Any) -> bytes:
    """An image as PNG.

    Args:
        image: a PIL image; a numpy array H×W or H×W×C; or a torch tensor H×W or C×H×W. C is 1
            (grey), 3 (RGB) or 4 (RGBA). Values are bytes, booleans, or floats from 0 to 1: those
            outside are drawn as 0 or 1, NaN as 0.

    Raises:
        UsageError: it is something else, or of another shape.
    """
    from PIL import Image

    if not isinstance(image, Image.Image):
        image = Image.fromarray(_pixels(image))
    elif image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _pixels(image: Any) -> Any:
    """An array or a tensor as an array of bytes, H×W or H×W×C."""
    import numpy as np

    layout, kind, shape = "H×W×C", "array", tuple(getattr(image, "shape", ()))
    if hasattr(image, "detach"):
        image = image.detach().cpu()
        # numpy has no bfloat16.
        image = (image.float() if image.is_floating_point() else image).numpy()
        layout, kind = "C×H×W", "tensor"
        if image.ndim == 3:
            image = np.moveaxis(image, 0, -1)
    if not isinstance(image, np.ndarray):
        raise UsageError(
            f"log_image takes a PIL image, a numpy array or a torch tensor, not "
            f"{type(image).__name__}; a matplotlib figure goes to log_figure"
        )
    if image.ndim not in (2, 3) or image.size == 0 or image.shape[2:] not in _CHANNELS:
        raise UsageError(
            f"log_image takes H×W or {layout} with 1, 3 or 4 channels; this {kind} has the shape "
            f"{shape}"
        )
    if image.dtype.kind == "f":
        image = np.rint(np.nan_to_num(image.clip(0, 1)) * 255).astype(np.uint8)
    elif image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    elif image.dtype != np.uint8:
        raise UsageError(
            f"log_image takes bytes, booleans, or floats from 0 to 1, not {image.dtype}; convert "
            "it with .astype(numpy.uint8), or .to(torch.uint8)"
        )
    return np.ascontiguousarray(image[:, :, 0] if image.shape[2:] == (1,) else image)


def _same_pixels(first: bytes, second: bytes) -> bool:
    """Whether two PNGs show the same; another version of a library packs the same otherwise."""
    if first == second:
        return True
    from PIL import Image

    try:
        with Image.open(io.BytesIO(first)) as a, Image.open(io.BytesIO(second)) as b:
            return _shown(a) == _shown(b)
    except (OSError, SyntaxError):  # PIL's words for a file that is no image
        return False


def _shown(image: Any) -> tuple[Any, ...]:
    return image.mode, image.size, image.getpalette(), image.tobytes()
