/** Which addresses a server must not call on a user's word: all that are not on the public Internet. */
import { BlockList, isIP, isIPv4 } from "node:net";

/** IANA's special-purpose registry for IPv4, with multicast and the reserved rest. */
const specialIpv4 = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/4",
  "240.0.0.0/4",
];

/** The only part of IPv6 that is global unicast. Mapped IPv4, NAT64, link-local, ULA and multicast lie outside. */
const globalIpv6 = ["2000::/3"];

/** Parts of it that are not: IETF protocols with Teredo, documentation, 6to4 (which embeds an IPv4 address). */
const specialIpv6 = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

/** One list for each family: Node compares an IPv4 address with IPv6 rules as its mapped form. */
interface AddressSet {
  readonly ipv4: BlockList;
  readonly ipv6: BlockList;
}

/** Throws TypeError for what is neither an address nor a CIDR. */
function addressSet(cidrs: readonly string[]): AddressSet {
  const set = { ipv4: new BlockList(), ipv6: new BlockList() };
  for (const cidr of cidrs) {
    const [address = "", prefix] = cidr.split("/");
    const family = isIP(address) === 4 ? "ipv4" : "ipv6";
    const bits = prefix === undefined ? (family === "ipv4" ? 32 : 128) : Number(prefix || "NaN");
    if (isIP(address) === 0 || !Number.isInteger(bits)) throw new TypeError(`${JSON.stringify(cidr)} is not a CIDR.`);
    set[family].addSubnet(address, bits, family);
  }
  return set;
}

const special = addressSet([...specialIpv4, ...specialIpv6]);
const global = addressSet(globalIpv6);

function contains(set: AddressSet, ip: string): boolean {
  return isIPv4(ip) ? set.ipv4.check(ip, "ipv4") : set.ipv6.check(ip, "ipv6");
}

/** The IPv4 address in a mapped one (`::ffff:a.b.c.d` in any spelling); any other address as it is. */
function unmapped(ip: string): string {
  if (isIP(ip) !== 6) return ip;
  const canonical = new URL(`http://[${ip}]/`).hostname.slice(1, -1);
  const match = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(canonical);
  if (!match) return ip;
  const [high, low] = [Number.parseInt(match[1]!, 16), Number.parseInt(match[2]!, 16)];
  return [high >> 8, high & 255, low >> 8, low & 255].join(".");
}

/** An address with a zone (`fe80::1%eth0`) is of one link only, and what is no address leads nowhere known. */
function isPlainAddress(ip: string): boolean {
  return isIP(ip) !== 0 && !ip.includes("%");
}

/** Whether `ip` is in one of `cidrs`; a mapped IPv4 address counts as the IPv4 address. */
export function isWithin(ip: string, cidrs: readonly string[]): boolean {
  return isPlainAddress(ip) && contains(addressSet(cidrs), unmapped(ip));
}

/** Whether `ip` must not be called: it is not a public address, nor in one of `allowedCidrs`. */
export function isForbiddenAddress(ip: string, allowedCidrs: readonly string[]): boolean {
  if (!isPlainAddress(ip)) return true;
  if (isWithin(ip, allowedCidrs)) return false;
  return contains(special, ip) || !(isIPv4(ip) || contains(global, ip));
}
