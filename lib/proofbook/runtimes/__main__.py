"""``python -m proofbook.runtimes``: the devices and the runtimes of this machine, as JSON."""

import json
from dataclasses import asdict

from proofbook.runtimes.devices import detect_all
from proofbook.runtimes.registry import missing, runtime_names

if __name__ == "__main__":
    devices = {name: asdict(device) for name, device in detect_all().items()}
    print(json.dumps({"devices": devices, "runtimes": {name: missing(name) for name in runtime_names()}}))
