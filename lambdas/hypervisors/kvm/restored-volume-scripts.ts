/** What runs on the host to make a volume and to give it its name, for the POSIX shell. Each may be cut off anywhere and run again. */

/** Whether the finished name belongs to the file that this restore made: inode and time of birth, as numbers of inodes are used again. */
const isPublished =
  'is_published() { [ -s "$marker" ] && [ -e "$final" ] && [ "$(cat "$marker")" = "$(stat -c "%i %W" "$final")" ]; }';

const names = "unfinished=$1; final=$2; marker=$3";

/** What the scripts write when another volume has the name. */
export const taken = "taken";
/** What the scripts write when there is no unfinished volume. */
export const gone = "gone";

/**
 * `$4` format, `$5` bytes. Made under a name of its own first, as a file is not complete at once. Whoever owns the folder owns its images,
 * where libvirt does not hand them to QEMU's user by itself.
 */
export const createScript = `
${names}; ${isPublished}
if is_published || [ -e "$unfinished" ]; then exit 0; fi
if [ -e "$final" ] || [ -L "$final" ]; then echo ${taken}; exit 0; fi
draft=$unfinished.$$
qemu-img create -q -f "$4" "$draft" "$5"
chmod 0660 "$draft"
chown --reference="$(dirname "$final")" "$draft" 2>/dev/null || true
sync "$draft"
ln -T "$draft" "$unfinished" 2>/dev/null || [ -e "$unfinished" ]
rm -f "$draft"
`;

/** A restore ends, one way or the other, within 30 days; nobody asks for its volume later. */
const markerDays = 60;

/** Nobody may write any more. A link to a name that is taken fails: nothing is overwritten. */
export const publishScript = `
${names}; ${isPublished}
if is_published; then rm -f "$unfinished"; exit 0; fi
if [ ! -e "$unfinished" ]; then echo ${gone}; exit 0; fi
sync "$unfinished"
mkdir -p "$(dirname "$marker")"
find "$(dirname "$marker")" -type f -mtime +${markerDays} -delete
stat -c "%i %W" "$unfinished" > "$marker"
sync "$marker"
if ! ln -T "$unfinished" "$final" 2>/dev/null; then
  if is_published; then rm -f "$unfinished"; exit 0; fi
  if [ -e "$final" ] || [ -L "$final" ]; then rm -f "$marker"; echo ${taken}; exit 0; fi
  ln -T "$unfinished" "$final"
fi
sync "$(dirname "$final")"
rm -f "$unfinished" "$unfinished".*
`;

/** Leaves a published volume alone. */
export const discardScript = `
${names}
rm -f "$unfinished" "$unfinished".* "$marker"
`;
