"""``python -m proofbook.runtimes``: the devices and the runtimes of this machine, as JSON."""

import json
from dataclasses import asdict

from proofbook.runtimes.devices import detect_all
from proofbook.runtimes.registry import missing, releases, runtime_names

if __name__ == "__main__":
    devices = {name: asdict(device) for name, device in detect_all().items()}
    names = runtime_names()
    runtimes, beside = ({name: each(name) for name in names} for each in (missing, releases))
    print(json.dumps({"devices": devices, "runtimes": runtimes, "releases": beside}))
