"""Generates code from the .proto files, or checks that the generated code is current.

    python tools/gen.py            write the generated files
    python tools/gen.py --check    exit with 1 and name the files that differ

Generated code rejects protobuf and grpcio releases that are older than its generator. The generator is therefore
pinned to an old release, which is also the minimum for users. tox has it in the environment ``gen``.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = "1.62.3"

# Each .proto file, and whether its services are generated, too.
SOURCES = {
    "nri_sync/api/nri.proto": True,
    "nri_sync/rpc/envelope.proto": False,
    "examples/shim/bootstrap.proto": False,
    "examples/shim/task.proto": True,
    "examples/shim/events.proto": False,
    "examples/shim/metrics.proto": False,
}
# The only message from another file that methods accept or return, and its module.
EMPTY = ".google.protobuf.Empty"


def generate(target: Path) -> list[str]:
    """Generate all files into the directory *target*; return their paths relative to it."""
    from grpc_tools import protoc

    names: list[str] = []
    # With the repository's root as the include root, generated imports are
    # absolute: `from nri_sync.api import nri_pb2`.
    includes = [f"-I{ROOT}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    for source, services in SOURCES.items():
        stem = source[: -len(".proto")]
        descriptor = target / "descriptor.pb"
        arguments = [f"--python_out={target}", f"--pyi_out={target}"]
        arguments.append(f"--descriptor_set_out={descriptor}")
        names += [f"{stem}_pb2.py", f"{stem}_pb2.pyi"]
        if services:
            arguments.append(f"--grpc_python_out={target}")
            names += [f"{stem}_pb2_grpc.py", f"{stem}_pb2_grpc.pyi"]
        if protoc.main(["protoc", *includes, *arguments, source]) != 0:
            raise SystemExit(f"protoc failed for {source}")
        types = target / f"{stem}_pb2.pyi"
        types.write_text(strict_types(types.read_text()))
        if services:
            files = descriptor_pb2.FileDescriptorSet.FromString(descriptor.read_bytes())
            types = target / f"{stem}_pb2_grpc.pyi"
            types.write_text(grpc_types(stem.replace("/", "."), files.file[0]))
    return names


def strict_types(text: str) -> str:
    """Repair the output of protoc for strict type checkers.

    protoc declares an enum value `None`, which is a syntax error; getattr() and Enum.Value() can read that value.
    For a field `class`, protoc writes an untyped **kwargs. A dict in place of a message has no type arguments.
    """
    lines = []
    for line in text.splitlines():
        name = re.match(r"\s*(\w+):", line)
        if name is not None and keyword.iskeyword(name[1]):
            continue
        if "import" not in line:
            line = re.sub(r"\b_Mapping\b(?!\[)", "_Mapping[str, object]", line)
        lines.append(line.replace("**kwargs)", "**kwargs: object)"))
    return "\n".join(lines) + "\n"


def grpc_types(module: str, file: descriptor_pb2.FileDescriptorProto) -> str:
    """The types of the generated stubs and servicers. protoc does not write them.

    Only unary methods are supported, because the .proto files have no others.
    """
    package, _, messages = f"{module}_pb2".rpartition(".")
    lines = ["import grpc as _grpc"]
    used = {name for s in file.service for m in s.method for name in (m.input_type, m.output_type)}
    if EMPTY in used:
        lines.append("from google.protobuf import empty_pb2 as _empty")
    lines += [f"from {package} import {messages} as _messages", ""]
    for service in file.service:
        methods = []
        for method in service.method:
            if method.client_streaming or method.server_streaming:
                raise SystemExit(f"{service.name}.{method.name}: streams are not supported")
            request, reply = (
                ("_empty." if name == EMPTY else "_messages.") + name.rpartition(".")[2]
                for name in (method.input_type, method.output_type)
            )
            methods.append((method.name, request, reply))
        lines += [f"class {service.name}Stub:"]
        lines += ["    def __init__(self, channel: _grpc.Channel) -> None: ..."]
        for name, request, reply in methods:
            lines.append(f"    {name}: _grpc.UnaryUnaryMultiCallable[{request}, {reply}]")
        lines += ["", f"class {service.name}Servicer:"]
        for name, request, reply in methods:
            arguments = f"self, request: {request}, context: _grpc.ServicerContext"
            lines.append(f"    def {name}({arguments}) -> {reply}: ...")
        arguments = f"servicer: {service.name}Servicer, server: _grpc.Server"
        lines += ["", f"def add_{service.name}Servicer_to_server({arguments}) -> None: ...", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()

    installed = metadata.version("grpcio-tools")
    if installed != GENERATOR:
        print(f"grpcio-tools {installed} is installed, {GENERATOR} is needed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        target = Path(directory)
        differing = []
        for name in generate(target):
            new = (target / name).read_bytes()
            old = ROOT / name
            if not old.exists() or old.read_bytes() != new:
                differing.append(name)
                if not options.check:
                    old.write_bytes(new)
    for name in differing:
        print(f"{name}: {'differs from its .proto file' if options.check else 'written'}")
    return 1 if options.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
