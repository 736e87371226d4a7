"""Builds a Triton model repository from real ONNX models that ship inside PyPI wheels.

    python examples/cpu/build_models.py -o examples/cpu/models

Nothing is installed: the wheels are downloaded into Planner's cache, one file is taken out of each, and its
digest is compared. A second run downloads nothing and leaves what is right as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from planner.errors import PlannerError, SetupError
from profiler.cache import cache_directory

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Source:
    """One ONNX file inside one wheel."""

    requirement: str
    member: str
    sha256: str


RAPIDOCR = "rapidocr-onnxruntime==1.4.4"
SOURCES = {
    "text_detection": Source(
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    ),
    "text_direction": Source(
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
    ),
    "text_recognition": Source(
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    ),
    "file_type": Source(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
    ),
    "speech_activity": Source(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_openvino_16k.onnx",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
    ),
}


def build(output: Path, cache: Path) -> list[str]:
    """Write every model that is missing or different; the names of those written."""
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name, source in SOURCES.items():
        wanted = {
            "config.pbtxt": HERE / "configs" / f"{name}.pbtxt",
            "1/model.py": HERE / "model.py",
            "1/model.onnx": onnx_file(source, cache),
        }
        if all(_same(output / name / relative, original) for relative, original in wanted.items()):
            continue
        _replace_directory(output / name, wanted)
        written.append(name)
    return written


def onnx_file(source: Source, cache: Path) -> Path:
    """The model's file in the cache, downloaded where it is not there yet."""
    target = cache / f"{source.sha256[:16]}.onnx"
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as scratch:
        wheel = _download(source.requirement, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            # One download serves every model of the same wheel.
            for other in (one for one in SOURCES.values() if one.requirement == source.requirement):
                content = archive.read(other.member)
                if hashlib.sha256(content).hexdigest() != other.sha256:
                    raise SetupError(f"{other.member} in {other.requirement} is not the file that was tried")
                unpacked = Path(scratch) / "model.onnx"
                unpacked.write_bytes(content)
                unpacked.replace(cache / f"{other.sha256[:16]}.onnx")
    return target


def _download(requirement: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary", ":all:", "--dest", str(directory), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"pip could not download {requirement}: {done.stderr.strip()[-600:]}")
    return next(directory.glob("*.whl"))


def _same(path: Path, original: Path) -> bool:
    """Equal content; of an ONNX file the size is enough, its digest was compared when it entered the cache."""
    if not path.is_file() or path.stat().st_size != original.stat().st_size:
        return False
    return path.suffix == ".onnx" or path.read_bytes() == original.read_bytes()


def _replace_directory(target: Path, files: dict[str, Path]) -> None:
    """Put a whole model in place at once, so that no Triton ever reads half of one."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        fresh = Path(scratch) / "new"
        for relative, original in files.items():
            (fresh / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, fresh / relative)
        with suppress(FileNotFoundError):
            target.rename(Path(scratch) / "old")
        try:
            fresh.rename(target)
        except OSError:
            # Another run of this script was first; it wrote the same.
            if not all(_same(target / relative, original) for relative, original in files.items()):
                raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "models", help="the model repository")
    options = parser.parse_args()
    try:
        written = build(options.output, cache_directory() / "onnx")
    except PlannerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.output}: {len(SOURCES)} models, {len(written)} written ({', '.join(written) or 'none'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
