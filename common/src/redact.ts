/** What a secret of Holdfast looks like wherever it turns up: an age identity. */
const AGE_IDENTITY = /AGE-SECRET-KEY-1[A-Z0-9]+/gi;

/** The text without anything that looks like a secret. The last net; secrets do not get here in the first place. */
export function redact(text: string): string {
  return text.replaceAll(AGE_IDENTITY, '[redacted]');
}
