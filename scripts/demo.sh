#!/usr/bin/env bash
# Scores completions of language models with a reward plugin on two workers and kills
# one of them halfway. Prints the solve rate of each model, and what became of the
# killed worker's items. Exit status 0: every line has its one result.
#
#   DATA=FILE     JSONL with reference, completion and model on each line
#                 (default examples/gsm8k-reward/sample.jsonl)
#   PASSES=N      score the file N times over (default: as often as makes the work
#                 last long enough for a worker to die in the middle of it)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
sample=examples/gsm8k-reward
data=${DATA:-$sample/sample.jsonl}
say() { printf '%s\n' "$*"; }
die() {
  printf 'demo: %s\n' "$*" >&2
  exit 1
}

[ -r "$data" ] || die "DATA=$data cannot be read"
make build
dir=$(mktemp -d "${TMPDIR:-/tmp}/rollout-demo-XXXXXX")
dev='' killer=''
: >"$dir/log"

# Ends what was started, on every way out. What is needed to find out why something
# went wrong is kept.
finish() {
  local code=$?
  trap - EXIT INT TERM
  [ -z "$killer" ] || kill "$killer" 2>/dev/null || true # it has done its part, or has none any more
  if [ -n "$dev" ]; then
    kill -TERM "$dev" 2>/dev/null || true # it may have ended by itself
    wait "$dev" || [ "$code" = 130 ] || code=1
  fi
  if [ "$code" = 0 ] || [ "$code" = 130 ] || [ ! -s "$dir/log" ]; then
    rm -rf "$dir"
  else
    printf 'demo: failed; the files of the run are in %s\n' "$dir" >&2
    tail -n 15 "$dir/log" >&2
  fi
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The plugins, in a directory of their own: the C one is compiled there.
mkdir "$dir/plugins"
cp "$sample"/*.toml "$sample"/*.py "$sample"/*.c "$dir/plugins/"
"${CC:-cc}" -shared -fPIC -O2 -I include -o "$dir/plugins/libgsm8k_reward.so" "$dir/plugins/gsm8k_reward.c"

# Lines to score. The id of each tells its line and pass.
python3 - "$data" "$dir" "${PASSES:-0}" <<'EOF' || die "DATA=$data is not what it should be"
import json, pathlib, sys

data, dir, passes = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
lines = []
for n, text in enumerate(open(data, encoding="utf-8"), 1):
    if text.strip():
        try:
            line = json.loads(text)
            line["reference"], line["completion"]
        except (ValueError, KeyError, TypeError) as e:
            sys.exit(f"{data}:{n}: not an object with reference and completion: {e!r}")
        lines.append(line)
if not lines:
    sys.exit(f"{data}: is empty")
passes = passes or (1 if len(lines) >= 3000 else -(-6000 // len(lines)))
for name, count in ("work.jsonl", passes), ("once.jsonl", 1):
    with open(dir / name, "w", encoding="utf-8") as out:
        for p in range(count):
            for n, line in enumerate(lines):
                out.write(json.dumps({**line, "custom_id": f"{n}/{p}"}) + "\n")
print(f"{len(lines)} lines of {data}" + (f", {passes} times over: one pass ends too soon to kill anybody in it" if passes > 1 else ""))
EOF

# Two workers with the three plugins, as a user starts them, on a free port.
bin/rollout dev --workers 2 --listen 127.0.0.1:0 --data-dir "$dir/data" \
  --plugin "$dir/plugins/rollout-plugin.toml" --plugin "$dir/plugins/embedded.toml" --plugin "$dir/plugins/c.toml" \
  >"$dir/log" 2>&1 &
dev=$!
for _ in $(seq 600); do
  [ "$(grep -c 'worker_state .*to=ready' "$dir/log")" -lt 2 ] || break
  kill -0 "$dev" 2>/dev/null || die "rollout dev ended"
  sleep 0.1
done
addr=$(sed -n 's/.* coordinator_started addr=\([^ ]*\).*/\1/p' "$dir/log")
victim=$(sed -n 's/.* w1 *started, pid //p' "$dir/log")
id=$(sed -n 's/.* w1 *plugin_loaded .*worker=\([^ ]*\).*/\1/p' "$dir/log" | head -n 1)
[ -n "$addr" ] && [ -n "$victim" ] && [ -n "$id" ] || die "the system did not start"
say "two workers are ready at $addr; w1 is process $victim"

rollout() { "$root/bin/rollout" "$@" --addr "$addr" --tls-dir "$dir/data/tls"; }
# number NAME TEXT: the first number of that name in JSON.
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" <<<"$2"; }

items=$(wc -l <"$dir/work.jsonl")

# Kills w1 once half of the items have a result and others are in work. The one job
# there is may still be taking lines in.
kill_halfway() {
  local counts ok leased
  while :; do
    counts=$(rollout jobs --json)
    ok=$(number ok "$counts") leased=$(number leased "$counts")
    if [ "${ok:-0}" -ge "$items" ]; then
      say "all $items items were done before a worker could be killed: give it more with PASSES=N" >&2
      return 1
    fi
    if [ "$((${ok:-0} * 2))" -ge "$items" ] && [ "$leased" -gt 0 ]; then break; fi
    sleep 0.02
  done
  kill -KILL "$victim"
  say "$ok of $items items are done, $leased are in work: killed w1 with SIGKILL"
}
kill_halfway &
killer=$!
rollout submit --plugin gsm8k-reward --method score --input "$dir/work.jsonl" --wait --output "$dir/work.out" || die "not every item is ok"
wait "$killer" || die "nobody was killed"
rollout jobs --json >"$dir/jobs.json"

# The same lines by the same reward, embedded and in C, on the worker that is left.
rollout submit --plugin gsm8k-reward-python --method score --input "$dir/once.jsonl" --wait --output "$dir/embedded.out"
rollout submit --plugin gsm8k-reward-c --method score --input "$dir/once.jsonl" --wait --output "$dir/c.out"

python3 - "$dir" "$id" <<'EOF'
import collections, json, pathlib, re, sys

dir, killed = pathlib.Path(sys.argv[1]), sys.argv[2]


def results(name, lines):
    """Reads results, of which each line must have one, and returns line -> reward."""
    rewards, workers = {}, collections.Counter()
    got = [json.loads(text) for text in open(dir / name, encoding="utf-8")]
    if [r["id"] for r in got] != [line["custom_id"] for line in lines]:
        sys.exit(f"demo: {name}: {len(got)} results do not stand for {len(lines)} lines, one for each in order")
    for r in got:
        if r["status"] != "ok":
            sys.exit(f"demo: {name}: {r}")
        n, reward = int(r["id"].split("/")[0]), r["result"]["reward"]
        if rewards.setdefault(n, reward) != reward:
            sys.exit(f"demo: {name}: line {n} was rewarded with {reward} and with {rewards[n]}")
        workers[r["worker_id"]] += 1
    return rewards, workers


work = [json.loads(text) for text in open(dir / "work.jsonl", encoding="utf-8")]
once = [json.loads(text) for text in open(dir / "once.jsonl", encoding="utf-8")]
rewards, workers = results("work.out", work)
others = [results(name, once)[0] for name in ("embedded.out", "c.out")]
for name, other in zip(("embedded Python", "C"), others):
    if other != rewards:
        sys.exit(f"demo: the sidecar and {name} do not agree")

models = collections.defaultdict(list)
for n, line in enumerate(once):
    models[str(line.get("model", "-"))].append(rewards[n])
width = max(5, *map(len, models))
print(f"\n{'model':{width}}  {'lines':>6}  {'solved':>6}  {'rate':>7}")
for model, rs in sorted(models.items()):
    solved = sum(r == 1.0 for r in rs)
    print(f"{model:{width}}  {len(rs):6}  {solved:6}  {100 * solved / len(rs):5.1f} %")
print("sidecar, embedded Python and C agree on every line\n")

log = (dir / "log").read_text(encoding="utf-8")
failed = re.search(rf"worker_failed worker={killed} .*silent_ms=(\d+)", log)
if not failed:
    sys.exit("demo: nobody found the killed worker")
counts = json.loads((dir / "jobs.json").read_text())[0]["counts"]
print(f"w1 had finished {workers[killed]} items when it was killed: their results stand")
print(f"it was declared failed {failed[1]} ms after its last beat, and {counts['losses']} of its items were requeued")
print(f"w2 did those too, {sum(workers.values()) - workers[killed]} in all: {len(work)} lines, {sum(workers.values())} results, each once")
EOF
