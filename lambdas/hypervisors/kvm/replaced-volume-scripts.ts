/**
 * What runs on the host to exchange a volume's own file for a restored one, for the POSIX shell. Each may be cut off anywhere and run again.
 * Arguments: `$1` the own file, `$2` the second name of the old one, `$3` path of the unfinished file without its ending, then what is said.
 *
 * Which step was the last one done is told from the names: only the unfinished file, then also the old one under its second name, then that
 * one without the unfinished file: it is exchanged.
 */

const names = "own=$1; kept=$2; stem=$3";
const ending = 'for format in raw qcow2; do [ ! -e "$stem.$format" ] || unfinished=$stem.$format; done';

/** Says `format FORMAT` of an unfinished file, `kept` when the old one has its second name, `file` when the own path is one itself. */
export const lookScript = `
${names}; unfinished=; ${ending}
[ -z "$unfinished" ] || echo "format \${unfinished##*.}"
[ ! -e "$kept" ] || echo kept
[ ! -f "$own" ] || [ -L "$own" ] || echo file
`;

/** `$4` format, `$5` bytes. Made under a name of its own first, as a file is not complete at once; for whoever the old one is for. */
export const createScript = `
${names}; draft=$stem.$$
qemu-img create -q -f "$4" "$draft" "$5"
chmod --reference="$own" "$draft"
chown --reference="$own" "$draft" 2>/dev/null || true
sync "$draft"
ln -T "$draft" "$stem.$4" 2>/dev/null || [ -e "$stem.$4" ]
rm -f "$draft"
`;

/** What it says when the own file is not the one any more that got the second name. */
export const changed = "changed";

/** `$4` format. The last step is one rename: at any moment the own path is one of the two files, whole. */
export const exchangeScript = `
${names}; unfinished=$stem.$4
if [ -e "$unfinished" ]; then
  [ -e "$kept" ] || ln -T "$own" "$kept"
  if ! [ "$kept" -ef "$own" ]; then echo ${changed}; exit 0; fi
  sync "$unfinished"
  sync "$(dirname "$own")"
  mv -f -T "$unfinished" "$own"
fi
sync "$(dirname "$own")"
`;

/** Puts the old file back, whichever step was the last. */
export const putBackScript = `
${names}; unfinished=; ${ending}
if [ -e "$kept" ]; then
  if [ "$kept" -ef "$own" ]; then rm -f "$kept"
  elif [ -n "$unfinished" ]; then echo ${changed}; exit 0
  else mv -f -T "$kept" "$own"
  fi
  sync "$(dirname "$own")"
fi
rm -f "$stem".raw "$stem".qcow2 "$stem".[0-9]*
`;
