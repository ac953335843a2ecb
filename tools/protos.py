"""Generate the stubs from proto/, or check that the committed ones are what it generates.

python tools/protos.py generate     rewrites the stubs
python tools/protos.py check        lints proto/ and compares

The validation rules (buf.validate) travel in the stubs as options that only the service's interceptor reads. The stubs
do not import their definition: a client needs no protovalidate, and clashes with nobody's version of it.
"""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
STUBS = {
    "undue/v1": ROOT / "client/src/undue/v1",
    "undue/runner/v1": ROOT / "service/src/undue_service/wire",
}
# The tools of this environment, whether or not it is the active one.
TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
RULES = "buf/validate/validate.proto"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def well_known() -> Path:
    """Return the folder of google/api and google/rpc protos that googleapis-common-protos ships."""
    import google.rpc

    return Path(next(iter(google.rpc.__path__))).parents[1]


def rules_definition() -> descriptor_pb2.FileDescriptorSet:
    """Return buf/validate/validate.proto, as the installed protovalidate has it, with what it imports."""
    from protovalidate import ViolationPb

    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.add().MergeFromString(ViolationPb.desc().file.proto.to_binary())
    return files


def protoc(*arguments: str) -> None:
    """Run the pinned protoc."""
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=TOOLS)
    if done.returncode:
        sys.exit(done.stderr)  # protoc's plugins chatter there on success too


def sources(folder: str) -> list[str]:
    """Return the files of one package, by their names as imports."""
    return sorted(str(path.relative_to(PROTO)) for path in (PROTO / folder).glob("*.proto"))


def compile_to(image: Path, folder: str) -> None:
    """Write the compiled package, with its comments and all that it imports, to a file."""
    definition = image.with_suffix(".rules")
    definition.write_bytes(rules_definition().SerializeToString())
    protoc(
        f"-I{PROTO}",
        f"-I{well_known()}",
        f"--descriptor_set_in={definition}",
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={image}",
        *sources(folder),
    )


def without_rules_import(image: Path) -> None:
    """Drop the import of the rules' definition; the rules themselves stay, as options that are not known."""
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    for file in files.file:
        kept = [name for name in file.dependency if name != RULES]
        del file.dependency[:]
        file.dependency.extend(kept)
    image.write_bytes(files.SerializeToString())


def generate(folder: str, target: Path) -> None:
    """Write the stubs of one package into `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "package.binpb"
        compile_to(image, folder)
        without_rules_import(image)
        outputs = ["--python_out", "--mypy_out", "--grpc_python_out", "--mypy_grpc_out"]
        if folder == "undue/runner/v1":
            outputs = outputs[:2]  # frames, no services
        protoc(f"--descriptor_set_in={image}", *(f"{option}={scratch}" for option in outputs), *sources(folder))
        target.mkdir(parents=True, exist_ok=True)
        for old in target.iterdir():
            if old.name.endswith(SUFFIXES):
                old.unlink()
        for new in sorted((Path(scratch) / folder).iterdir()):
            source = PROTO / folder / (new.name.partition("_pb2")[0] + ".proto")
            # A file without services has nothing to say in its _grpc twin.
            if "_grpc" in new.name and "\nservice " not in source.read_text():
                continue
            shutil.copy(new, target / new.name)


def check() -> int:
    """Lint proto/ and compare the committed stubs with fresh ones; return the number of complaints."""
    complaints = 0
    with tempfile.TemporaryDirectory() as scratch:
        for folder, target in STUBS.items():
            image = Path(scratch) / f"{target.name}.binpb"
            compile_to(image, folder)
            lint = ["buf", "lint", str(image), "--path", folder, "--config", str(ROOT / "buf.yaml")]
            complaints += subprocess.run(lint, check=False, env=TOOLS).returncode != 0
            fresh = Path(scratch) / folder
            generate(folder, fresh)
            committed = {path.name for path in target.iterdir() if path.name.endswith(SUFFIXES)}
            names = committed | {path.name for path in fresh.iterdir()}
            _, different, missing = filecmp.cmpfiles(fresh, target, sorted(names), shallow=False)
            for name in different + missing:
                print(f"stub out of date: {target.relative_to(ROOT)}/{name}: run `make proto`")
                complaints += 1
    return complaints


if __name__ == "__main__":
    if sys.argv[1:] == ["generate"]:
        for package, place in STUBS.items():
            generate(package, place)
    elif sys.argv[1:] == ["check"]:
        sys.exit(1 if check() else 0)
    else:
        sys.exit(__doc__)
