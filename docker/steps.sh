#!/usr/bin/env bash
# Executes the steps of the service image in FOLDER where no engine is: the same files, the same commands, and in
# the end the health check as the image's user. A root directory of this machine stands for the base image.
#   steps.sh FOLDER
# Needs root and Python 3.11. FOLDER must not exist; it is some 300 MB afterwards.
set -Eeuo pipefail

folder=${1:?Missing the folder to build in}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
file=docker/service/Dockerfile
for tool in chroot mount unshare python3.11; do
  if ! command -v "$tool" >/dev/null; then
    echo "Missing the program $tool" >&2
    exit 1
  fi
done
if [[ "$(id -u)" != 0 ]]; then
  echo "A root directory of its own needs root." >&2
  exit 1
fi
if [[ -e "$folder" ]]; then
  echo "$folder exists already." >&2
  exit 1
fi
exec unshare --mount --propagation private "$(command -v python3)" - "$file" "$folder" <<'PYTHON'
import json, os, re, shlex, shutil, subprocess, sys
from pathlib import Path

file, folder = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", "")
python = Path(shutil.which("python3.11")).resolve().parents[1]
stages, root, user, place, environ = {}, None, None, "/", {}

def base(name):
    """A root with this machine's programs and Python, read-only, and an own file system beside them."""
    new = folder / name
    for part in ("etc", "tmp", "dev", "proc", "src", "app", "usr", str(python)[1:]):
        (new / part).mkdir(parents=True, exist_ok=True)
    os.chmod(new / "tmp", 0o1777)
    for part in ("/usr", "/dev", str(python)):
        target = str(new) + part
        subprocess.run(["mount", "--rbind", part, target], check=True)
        if part != "/dev":
            subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
    for part in ("bin", "sbin", "lib", "lib64"):
        (new / part).symlink_to(f"usr/{part}")
    subprocess.run(["mount", "-t", "proc", "proc", str(new / "proc")], check=False)
    # The accounts of a base image, not those of this machine.
    (new / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    (new / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    for name in ("login.defs", "resolv.conf", "hosts", "nsswitch.conf"):
        if Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), new / "etc" / name)
    for name in ("ssl", "alternatives", "pip.conf", "default"):
        if Path("/etc", name).is_dir():
            shutil.copytree(Path("/etc", name), new / "etc" / name, symlinks=True)
        elif Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), new / "etc" / name)
    return new

def run(command, account=None):
    words = ["chroot", *([f"--userspec={account}"] if account else []), str(root), "/bin/sh", "-c", f"cd {place} && {command}"]
    passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "http", "HTTP", "SSL_", "REQUESTS_"))}
    values = {"PATH": f"{python}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", **passed, **environ}
    return subprocess.run(words, env=values, check=True)

def expand(value):
    known = {"PATH": f"{python}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDEVMODE": "", **environ}
    return re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], ""), value)

health = None
for line in filter(str.strip, text.splitlines()):
    step, _, rest = line.strip().partition(" ")
    print(f"{step} {rest}", flush=True)
    if step == "FROM":
        name = rest.split(" AS ")[1] if " AS " in rest else "image"
        root = stages[name] = base(name)
        user, place, environ = None, "/", {}
    elif step == "WORKDIR":
        place = rest
        (root / rest[1:]).mkdir(parents=True, exist_ok=True)
    elif step == "COPY":
        *sources, target = shlex.split(rest)
        origin = Path()
        if sources[0].startswith("--from="):
            origin = stages[sources.pop(0)[7:]]
        goal = root / (target if target[0] == "/" else f"{place}/{target}").lstrip("/")
        for source in sources:
            found = origin / source.lstrip("/") if origin != Path() else Path(source)
            if found.is_dir():
                shutil.copytree(found, goal, symlinks=True, dirs_exist_ok=True)
            else:
                goal.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, goal)
    elif step == "RUN":
        run(rest, user)
    elif step == "ENV":
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            environ[name] = expand(value)
    elif step == "USER":
        user = rest
    elif step == "HEALTHCHECK":
        health = json.loads(rest[rest.index("CMD ") + 4 :])

environ.update(STREAM_NODE_ID="steps", STREAM_SANDBOX_LISTEN="127.0.0.1:0", STREAM_SANDBOX_PATH="/stream/data/sandbox",
    STREAM_METRICS_LISTEN="127.0.0.1:29000", STREAM_HOSTNAME="localhost")
check = " ".join(map(shlex.quote, health))
run("/app/service --version", user)
run("id -u && test ! -w /app && test -w /stream/volumes", user)
run(f"""/app/service sandbox >/tmp/log 2>&1 & pid=$!
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  if {check} 2>/dev/null; then kill $pid; wait $pid; echo healthy; exit 0; fi; sleep 0.5
done; cat /tmp/log; kill $pid; exit 1""", user)
PYTHON
