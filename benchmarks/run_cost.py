"""Wall time of a command, and the peak resident memory of the largest process that it starts.

python benchmarks/run_cost.py mammosift run --source films/ --out curated/ --tile-size-px 128
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

EVERY_S = 0.1


def main() -> int:
    started = time.monotonic()
    child = subprocess.Popen(sys.argv[1:])
    root = psutil.Process(child.pid)
    peaks: dict[str, int] = {}
    total = 0
    while child.poll() is None:
        now = 0
        try:
            processes = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for process in processes:
            try:
                rss = process.memory_info().rss
                name = f"{process.pid} {' '.join(process.cmdline()[:4])[-60:]}"
            except psutil.Error:
                continue
            peaks[name] = max(peaks.get(name, 0), rss)
            now += rss
        total = max(total, now)
        time.sleep(EVERY_S)
    seconds = time.monotonic() - started
    print(f"\nwall time {seconds:.1f} s, exit status {child.wait()}")
    print(f"peak resident memory, all processes together {total / 2**20:,.0f} MiB")
    for name, peak in sorted(peaks.items(), key=lambda item: -item[1])[:5]:
        print(f"{peak / 2**20:8,.0f} MiB  {name}")
    return child.returncode


if __name__ == "__main__":
    sys.exit(main())
