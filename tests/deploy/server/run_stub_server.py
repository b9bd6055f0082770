"""A server's process over the stub engine, for tests of signals. Prints its port; lines of stdin are methods of the engine."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path

from tilth.deploy.server.limits import Limits
from tilth.deploy.server.ports import Ports
from tilth.deploy.server.running import run_process
from tilth.deploy.server.service import Served
from tilth.tokenize.bpe import Tokenizer, train_bpe


def main() -> int:
    spec = importlib.util.spec_from_file_location("stub_engine", Path(__file__).parent / "stub_engine.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["stub_engine"] = module
    spec.loader.exec_module(module)
    tokenizer, engine = Tokenizer(train_bpe(["some text"], 260)), module.StubEngine()

    def obey() -> None:
        for line in sys.stdin:
            name, *arguments = line.split()
            getattr(engine, name)(*map(int, arguments))
            print("done", flush=True)

    threading.Thread(target=obey, daemon=True).start()
    served = Served(engine=engine, name="base", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size)
    limits = Limits(drain_seconds=float(sys.argv[1]))
    return run_process(served, limits, Ports(port=0), on_ready=lambda port, _: print(port, flush=True))


if __name__ == "__main__":
    sys.exit(main())
