"""A server's process over a small hybrid and three of its fine-tunes, for load.py and soak.py: `serving()` starts and ends it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from tilth.deploy.delta import compress
from tilth.deploy.delta_file import save_delta
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model
from tilth.tokenize.bpe import train_bpe

MODEL = ModelConfig(
    vocab_size=512, d_model=64, layers="MMMA", n_heads=4, n_kv_heads=2, d_ff=160, d_state=16, ssm_head_dim=16, chunk_size=16
)  # fmt: skip
LOADED, SPARE = ("poet", "clerk"), "guest"
TEXT = Path(torch.__file__).read_text(encoding="utf-8")[:300_000]


@dataclass(frozen=True)
class Serving:
    """url of the API without /v1, that of the admin port, its token, and the server's process."""

    url: str
    admin_url: str
    token: str
    process: psutil.Process

    @property
    def rss_bytes(self) -> int:
        """Memory of the server's process."""
        return int(self.process.memory_info().rss)

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the server's process."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def write_models(folder: Path) -> None:
    """The base, and a delta for each tenant; random weights: what is measured does not depend on what is said."""
    torch.manual_seed(0)
    base = Decoder(MODEL)
    save_model(folder / "base", base, train_bpe([TEXT], MODEL.vocab_size))
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for name in (*LOADED, SPARE):
        tuned = {key: tensor + 0.05 * torch.randn_like(tensor) if tensor.ndim == 2 else tensor for key, tensor in state.items()}
        delta = compress(state, tuned)
        save_delta(folder / f"{name}.safetensors", delta, delta.base_digest)


def serve_folder(folder: Path, capacity_bytes: int, max_waiting: int) -> int:
    """The server's process."""
    from tilth.deploy.server.ports import Ports
    from tilth.deploy.server.serve import ServeOptions, serve
    from tilth.inference.engine.limits import EngineLimits

    limits = EngineLimits(capacity_bytes=capacity_bytes, max_rows=32, max_waiting=max_waiting, max_tokens=4096, chunk_tokens=128)
    deltas = {name: folder / f"{name}.safetensors" for name in LOADED}
    ports = Ports(port=0, admin_port=0, admin_token="of the benchmark")
    options = ServeOptions(
        base=folder / "base", deltas=deltas, delta_folder=folder, ports=ports, engine=limits, n_threads=1
    )  # fmt: skip
    return serve(options, say=lambda line: print(line, flush=True))


@contextlib.contextmanager
def serving(capacity_bytes: int = 64 << 20, max_waiting: int = 64) -> Iterator[Serving]:
    """A running server; it has ended, with exit code 0, when this is left."""
    with tempfile.TemporaryDirectory() as name:
        write_models(Path(name))
        command = [sys.executable, __file__, name, str(capacity_bytes), str(max_waiting)]
        with open(Path(name) / "log", "w") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout
            ready = json.loads(process.stdout.readline() or "{}")
            if not ready:
                raise RuntimeError((Path(name) / "log").read_text())
            url, admin_url = (f"http://127.0.0.1:{ready[port]}" for port in ("port", "admin_port"))
            yield Serving(url, admin_url, "of the benchmark", psutil.Process(process.pid))
        finally:
            process.terminate()
            process.communicate(timeout=60)
        code = process.returncode
        if code:
            raise RuntimeError(f"the server ended with {code}:\n{(Path(name) / 'log').read_text()[-5000:]}")


if __name__ == "__main__":
    sys.exit(serve_folder(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
