/** Reads XML of the host as a tree. Entities that it defines itself are refused. */
import { DOMParser, type Element, onErrorStopParsing } from "@xmldom/xmldom";
import { HypervisorFailed } from "../../domain/errors.ts";

/** The outermost element. Throws HypervisorFailed for what is no XML, or has another name. */
export function parseXml(xml: string, name: string): Element {
  let root: Element | null;
  try {
    root = new DOMParser({ onError: onErrorStopParsing }).parseFromString(xml, "text/xml").documentElement;
  } catch (cause) {
    throw new HypervisorFailed("libvirt sent XML that cannot be read.", { cause });
  }
  if (root?.tagName !== name) throw new HypervisorFailed(`libvirt sent a <${root?.tagName}> in place of a <${name}>.`);
  return root;
}

/** Elements of this name directly in another. */
export function children(parent: Element | undefined, name: string): Element[] {
  return [...(parent?.childNodes ?? [])].filter((node) => node.nodeName === name) as Element[];
}

export function child(parent: Element | undefined, name: string): Element | undefined {
  return children(parent, name)[0];
}

/** The text of the element that this way of names leads to. */
export function textAt(parent: Element, ...names: readonly string[]): string | undefined {
  return textOf(names.reduce<Element | undefined>(child, parent));
}

export function textOf(element: Element | undefined): string | undefined {
  return element?.textContent?.trim();
}

export function setText(element: Element, text: string): void {
  element.textContent = text;
}

export function attribute(element: Element | undefined, name: string): string | undefined {
  return element?.getAttribute(name) ?? undefined;
}

export function append(parent: Element, element: Element): Element {
  parent.appendChild(element);
  return element;
}
