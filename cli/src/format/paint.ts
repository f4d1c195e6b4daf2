import { styleText } from 'node:util';

/** Colours that mean something; each gives the text back as it is when colours are off. */
export interface Paint {
  good(text: string): string;
  bad(text: string): string;
  attention(text: string): string;
  faint(text: string): string;
}

/** Colours, or none. */
export function createPaint(color: boolean): Paint {
  const style = (name: Parameters<typeof styleText>[0]) => (text: string) =>
    color ? styleText(name, text, { validateStream: false }) : text;
  return { good: style('green'), bad: style('red'), attention: style('yellow'), faint: style('dim') };
}
