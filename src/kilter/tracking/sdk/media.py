"""Tables, figures, pictures and sounds as the bytes of a file; what draws or encodes is used where the user has it."""

from __future__ import annotations

import io
import struct
import wave
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels to PNG's kind of colour


def table_bytes(data: Any) -> bytes:
    """Return rows as Parquet.

    Args:
        data: A frame of Polars, pandas or Arrow, rows as mappings, or columns by name.

    Raises:
        InvalidInput: When it is none of them.
    """
    import polars as pl  # noqa: PLC0415 - only a table pays for it

    try:
        if isinstance(data, pl.LazyFrame):
            frame = data.collect()
        elif isinstance(data, pl.DataFrame):
            frame = data
        elif hasattr(data, "__dataframe__") or hasattr(data, "__arrow_c_stream__"):
            frame = _frame(pl, data)
        else:
            frame = pl.DataFrame(data, infer_schema_length=None) if data else pl.DataFrame()
        target = io.BytesIO()
        frame.write_parquet(target)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(
            f"{type(data).__name__} is no table: {error}",
            where="table",
            allowed="a frame, rows as dicts, or columns by name",
        ) from None
    return target.getvalue()


def figure_bytes(figure: Any) -> tuple[bytes, str]:
    """Return a figure of matplotlib as PNG, or one of plotly as JSON, with the ending of its file's name.

    Raises:
        InvalidInput: When it is neither.
    """
    if hasattr(figure, "get_figure") and not hasattr(figure, "savefig"):  # axes
        figure = figure.get_figure()
    if hasattr(figure, "savefig"):
        target = io.BytesIO()
        figure.savefig(target, format="png", bbox_inches="tight")
        return target.getvalue(), ".png"
    if hasattr(figure, "to_json") and hasattr(figure, "to_plotly_json"):
        return str(figure.to_json()).encode(), ".plotly.json"
    raise InvalidInput(
        f"{type(figure).__name__} is no figure", where="figure", allowed="a figure of matplotlib or plotly"
    )


def image_bytes(image: Any) -> bytes:
    """Return a picture as PNG.

    Args:
        image: An array of height, width and 1 to 4 channels (or none), of bytes from 0 to 255 or of numbers from 0 to 1; or a
            picture of Pillow.

    Raises:
        InvalidInput: When it is neither.
    """
    if hasattr(image, "save") and hasattr(image, "mode"):
        target = io.BytesIO()
        image.save(target, format="PNG")
        return target.getvalue()
    import numpy as np  # noqa: PLC0415 - only a picture pays for it

    pixels = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in _COLOURS or not pixels.size:
        raise InvalidInput(
            f"an array of shape {pixels.shape}", where="image", allowed="height, width and 1 to 4 channels"
        )
    return _png(_bytes_of(pixels, np))


def audio_bytes(samples: Any, rate: int) -> bytes:
    """Return a sound as WAV of 16 bits.

    Args:
        samples: Numbers from -1 to 1, or 16-bit integers: one line, or one column for each channel.
        rate: Samples a second.

    Raises:
        InvalidInput: When it is no sound.
    """
    import numpy as np  # noqa: PLC0415 - only a sound pays for it

    wave_form = np.asarray(samples.detach().cpu() if hasattr(samples, "detach") else samples)
    if wave_form.ndim == 1:
        wave_form = wave_form[:, None]
    if wave_form.ndim != 2 or not 1 <= wave_form.shape[1] <= 16 or not 1 <= rate <= 1_000_000:
        raise InvalidInput(
            f"an array of shape {wave_form.shape} at {rate} samples a second",
            where="audio",
            allowed="samples, or samples by at most 16 channels, at 1 to 1,000,000 a second",
        )
    if wave_form.dtype.kind == "f":
        if not np.isfinite(wave_form).all():
            raise InvalidInput("samples that are no numbers", where="audio", allowed="numbers from -1 to 1")
        wave_form = np.round(np.clip(wave_form, -1, 1) * 32767)
    elif wave_form.dtype != np.int16:
        raise InvalidInput(
            f"samples of {wave_form.dtype}", where="audio", allowed="numbers from -1 to 1, or 16-bit integers"
        )
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(wave_form.shape[1])
        file.setsampwidth(2)
        file.setframerate(int(rate))
        file.writeframes(wave_form.astype("<i2").tobytes())
    return target.getvalue()


def data_digest(data: Any) -> tuple[str, str, str]:
    """Return what names the content of data, with its columns and its size, both as text.

    Args:
        data: A frame, an array, or bytes.

    Raises:
        InvalidInput: When it can't be read.
    """
    from kilter.core.digests import canonical_json, digest  # noqa: PLC0415 - beside its only use

    if isinstance(data, bytes | bytearray | memoryview):
        return digest(data), "", canonical_json({"bytes": len(data)}).decode()
    if isinstance(data, str):
        return digest(data.encode()), "", canonical_json({"bytes": len(data.encode())}).decode()
    if hasattr(data, "dtype") and hasattr(data, "tobytes") and hasattr(data, "shape"):
        if data.dtype == object:
            raise InvalidInput("an array of objects has no digest", where="dataset", fix="give `version=`")
        head = canonical_json({"dtype": str(data.dtype), "shape": list(data.shape)})
        return (
            digest(head + data.tobytes()),
            head.decode(),
            canonical_json({"rows": int(data.shape[0]) if data.shape else 1}).decode(),
        )
    import polars as pl  # noqa: PLC0415 - only a frame pays for it

    try:
        frame = (
            data.collect()
            if isinstance(data, pl.LazyFrame)
            else data
            if isinstance(data, pl.DataFrame)
            else _frame(pl, data)
        )
        target = io.BytesIO()
        frame.write_ipc(target, compression="uncompressed")
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(
            f"{type(data).__name__} has no digest: {error}",
            where="dataset",
            fix="give `version=`, or a frame, an array or bytes",
        ) from None
    columns = {name: str(kind) for name, kind in frame.schema.items()}
    return digest(target.getvalue()), canonical_json(columns).decode(), canonical_json({"rows": frame.height}).decode()


def _frame(pl: Any, data: Any) -> Any:
    """Return a frame of pandas or Arrow, or rows, as one of Polars."""
    if isinstance(data, Mapping) or (isinstance(data, Sequence) and not isinstance(data, str | bytes)):
        return pl.DataFrame(data, infer_schema_length=None)
    if hasattr(data, "__arrow_c_stream__"):
        return pl.DataFrame(data)
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas without Arrow
        return pl.DataFrame({str(name): data[name].to_list() for name in data.columns}, strict=False)
    return pl.from_dataframe(data)


def _bytes_of(pixels: np.ndarray[Any, Any], np: Any) -> np.ndarray[Any, Any]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype("u1") * 255
    if not np.isfinite(pixels.astype(float)).all():
        raise InvalidInput("pixels that are no numbers", where="image", allowed="bytes, or numbers from 0 to 1")
    if pixels.dtype.kind == "f":
        if pixels.min() < 0 or pixels.max() > 1:
            raise InvalidInput(
                f"numbers from {pixels.min():g} to {pixels.max():g}",
                where="image",
                allowed="bytes, or numbers from 0 to 1",
            )
        pixels = np.round(pixels * 255)
        return pixels.astype("u1")
    if pixels.min() < 0 or pixels.max() > 255:
        raise InvalidInput(f"integers from {pixels.min()} to {pixels.max()}", where="image", allowed="0 to 255")
    return pixels.astype("u1")


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    """Return pixels as PNG; the format is simple enough to need no library."""
    height, width, channels = pixels.shape
    lines = b"".join(b"\x00" + line.tobytes() for line in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    return _SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 6)) + chunk(b"IEND", b"")
