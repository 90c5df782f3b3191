"""The memory that publishing in shards takes besides the model: here, and with the gate's process.

Private memory is sampled, of the process and of those that it starts: what is mapped from files is
not in it, since the system takes that back where it needs to. The peak of the publishing process
itself is the kernel's own count, of everything.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness import Row, Target, medians, report, run
from serving import CLIENT, environment, registry

SHARD = 64_000_000

PUBLISH = """
import threading
from pathlib import Path
import torch, hubstate, hubstate.publishing, huggingface_hub
place, name, builder, limit = sys.argv[1:]
torch.manual_seed(len(name))
model = hubstate.create_model(builder)
size = sum(t.nbytes for t in model.state_dict().values())
def status(pid, field):
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(l.split()[1]) << 10 for l in file if l.startswith(field)), 0)
    except OSError:
        return 0
def words(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
own = words(os.getpid())
def private():
    try:  # a child that has not begun its own program yet has this one's memory
        children = [pid for pid in tree(os.getpid())[1:] if words(pid) != own]
        return sum(status(pid, "RssAnon") for pid in (os.getpid(), *children))
    except OSError:
        return 0
Path("/proc/self/clear_refs").write_text("5")
before, peak_before, most = private(), status(os.getpid(), "VmHWM"), 0
done = threading.Event()
def watch():
    global most
    while not done.wait(0.005):
        most = max(most, private())
watcher = threading.Thread(target=watch)
watcher.start()
began = time.perf_counter()
publication = hubstate.publish(model, name, license="mit", probe=(1, 3, 224, 224), registry=place,
                               max_shard_size=int(limit) if limit else None)
seconds = time.perf_counter() - began
done.set()
watcher.join()
files = [file.size for file in publication.manifest.files]
print(json.dumps({"model MB": size / 1e6, "files": len(files), "largest MB": max(files) / 1e6,
                  "s": seconds, "peak here MB": (status(os.getpid(), "VmHWM") - peak_before) / 1e6,
                  "private, gate too MB": (most - before) / 1e6}))
"""


def main(rounds: int) -> None:
    rows: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as name, registry(Path(name, "server")) as served:
        folder = Path(name)
        stock = environment(served, folder / "home", HUBSTATE_TOKEN=served.token)
        for number in range(min(rounds, 3)):
            for builder in ("vit_b_16", "vit_l_16"):
                for place in (str(folder / "registry"), served.url):
                    kind = f"{builder} to a {'server' if place == served.url else 'folder'}"
                    arguments = (place, f"admin/{builder}{number}", builder, str(SHARD))
                    row = run(CLIENT + PUBLISH, *arguments, environment=stock)
                    rows.setdefault(kind, []).append(row)
    targets = [
        Target(text=f"{kind}: {figure}", value=row[figure], at_most=row["largest MB"] + 200)
        for kind, row in medians(rows).items()
        for figure in ("peak here MB", "private, gate too MB")
    ]
    report("sharding: memory of publishing besides the model, shards of 64 MB", rows, targets)
