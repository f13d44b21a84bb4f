/** What libvirt is asked for when a snapshot is taken. */
import { DOMImplementation, type Element, XMLSerializer } from "@xmldom/xmldom";

/**
 * Puts an overlay on each disk of `overlays` (target to path) and leaves the others alone: libvirt takes all disks that are not named.
 */
export function snapshotXml(targets: readonly string[], overlays: ReadonlyMap<string, string>): string {
  const document = new DOMImplementation().createDocument(null, "domainsnapshot");
  const add = (parent: Element, name: string, attributes: Readonly<Record<string, string>>): Element => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.appendChild(element);
    return element;
  };
  const disks = add(document.documentElement!, "disks", {});
  for (const name of targets) {
    const file = overlays.get(name);
    const disk = add(disks, "disk", { name, snapshot: file === undefined ? "no" : "external" });
    if (file === undefined) continue;
    disk.setAttribute("type", "file");
    add(disk, "driver", { type: "qcow2" });
    add(disk, "source", { file });
  }
  return new XMLSerializer().serializeToString(document);
}
