/**
 * What runs on the host to open and close exports, for the POSIX shell. A lock holds off whoever does the same at that moment: qemu-nbd
 * would take a socket away from another one. The process is told by the socket in its command line, as numbers of processes are used again.
 */

const lock = 'umask 077; mkdir -p "$1"; exec 9>>"$1/lock"; flock -w 20 9; folder=$1/$2';

const isRunning =
  'is_running() { [ -s "$1/pid" ] && grep -qaF -- "$1/sock" "/proc/$(cat "$1/pid")/cmdline" 2>/dev/null; }';

/** `$1` folder of all exports, `$2` id of the snapshot, `$3` the record, then the arguments of qemu-nbd. It does not inherit the lock. */
export const openScript = `
${lock}; ${isRunning}
mkdir -p "$folder"
if is_running "$folder" && [ -S "$folder/sock" ]; then exit 0; fi
rm -f "$folder/sock" "$folder/pid"
printf '%s\\n' "$3" > "$folder/record.json"
shift 3
qemu-nbd --fork --pid-file="$folder/pid" --socket="$folder/sock" "$@" 9>&-
`;

/** Arguments as above. Ends with qemu-nbd gone: after 5 s it is killed. */
export const closeScript = `
${lock}; ${isRunning}
if is_running "$folder"; then
  pid=$(cat "$folder/pid")
  kill "$pid" 2>/dev/null || true
  tries=0
  while is_running "$folder" && [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    if [ "$tries" -eq 50 ]; then kill -9 "$pid" 2>/dev/null || true; fi
    sleep 0.1
  done
fi
rm -rf "$folder"
`;

/** `$1` folder of all exports. A line for each: \`running\` or \`ended\`, and the record. */
export const listScript = `
${isRunning}
for folder in "$1"/*/; do
  folder=\${folder%/}
  [ -f "$folder/record.json" ] || continue
  if is_running "$folder"; then printf 'running '; else printf 'ended '; fi
  cat "$folder/record.json"
done
`;
