import { DOMParser, XMLSerializer, type Document, type Element } from '@xmldom/xmldom';

/** Reads an XML document; libvirt's are well-formed, so a fault is a bug. */
export function parseXml(text: string): Element {
  const root = new DOMParser({ onError: rethrow }).parseFromString(text, 'text/xml').documentElement;
  if (root === null) throw new Error('An XML document without an element.');
  return root;
}

/** The document as text. */
export function printXml(root: Element): string {
  return `${new XMLSerializer().serializeToString(root)}\n`;
}

/** The children of an element with a tag name, or all of them. */
export function children(element: Element, tagName?: string): readonly Element[] {
  return Array.from(element.childNodes).filter(
    (node): node is Element =>
      node.nodeType === node.ELEMENT_NODE && (tagName === undefined || node.nodeName === tagName),
  );
}

/** The first child with a tag name. */
export function child(element: Element, tagName: string): Element | undefined {
  return children(element, tagName)[0];
}

/** The child at a path of tag names, such as ['os', 'nvram']. */
export function descendant(element: Element, path: readonly string[]): Element | undefined {
  return path.reduce<Element | undefined>(
    (at, name) => (at === undefined ? undefined : child(at, name)),
    element,
  );
}

/** A new element with attributes. */
export function element(
  of: Element,
  tagName: string,
  attributes: Readonly<Record<string, string>> = {},
): Element {
  const made = (of.ownerDocument as Document).createElement(tagName);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function rethrow(level: string, message: string): void {
  if (level !== 'warning') throw new Error(`XML: ${message}`);
}
