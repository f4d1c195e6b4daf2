import { Worker } from 'node:worker_threads';
import { createHash } from 'node:crypto';
import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption';
import { Secret } from '@holdfast/common/secret.ts';

const SECOND = 1_000;

/** Deriving a key from a passphrase takes about a second of one core, and longer on a busy machine. */
const PASSPHRASE_DEADLINE_MS = 60 * SECOND;

/** An X25519 key pair of age. */
export interface KeyPair {
  /** The secret half: AGE-SECRET-KEY-1..., without a newline. */
  readonly identity: Secret;
  /** The public half: age1... */
  readonly recipient: string;
}

/** What the worker is asked to do. */
export type PassphraseTask =
  | {
      readonly kind: 'encrypt';
      readonly plain: string;
      readonly passphrase: string;
      readonly workFactor: number;
    }
  | { readonly kind: 'decrypt'; readonly file: Uint8Array; readonly passphrase: string };

/** What the worker answers. `text` is undefined when the passphrase does not open the file. */
export type PassphraseAnswer =
  | { readonly kind: 'encrypted'; readonly file: Uint8Array }
  | { readonly kind: 'decrypted'; readonly text: string | undefined };

export async function generateKeyPair(): Promise<KeyPair> {
  const identity = await generateX25519Identity();
  return { identity: new Secret(identity), recipient: await identityToRecipient(identity) };
}

/** A short name for a recipient. */
export function keyIdOf(recipient: string): string {
  return createHash('sha256').update(recipient).digest('hex').slice(0, 16);
}

/** An age file (binary) of exactly the text, which the identity of any of the recipients opens. */
export async function encryptTo(recipients: readonly string[], plain: Secret): Promise<Buffer> {
  const encrypter = new Encrypter();
  for (const recipient of recipients) encrypter.addRecipient(recipient);
  return Buffer.from(await encrypter.encrypt(plain.reveal()));
}

/**
 * To how many recipients an age file is wrapped, by its header: it has a stanza for each, which begins with an arrow
 * (age-encryption.org/v1). 0 when it is no age file.
 */
export function recipientCount(file: Uint8Array): number {
  const [header = ''] = Buffer.from(file).toString('latin1').split('\n---', 1);
  return header.startsWith('age-encryption.org/v1\n') ? header.split('\n-> ').length - 1 : 0;
}

/** The text in an age file. @throws when another identity opens it, or it is damaged */
export async function decryptWith(identity: Secret, file: Uint8Array): Promise<Secret> {
  const decrypter = new Decrypter();
  decrypter.addIdentity(identity.reveal());
  return new Secret(await decrypter.decrypt(file, 'text'));
}

/** The recipient of an identity. @throws when the text is no identity */
export async function recipientOf(identity: Secret): Promise<string> {
  return await identityToRecipient(identity.reveal());
}

/** An age file (binary) of the text under a passphrase: scrypt with 2^workFactor rounds, in a thread of its own. */
export async function encryptUnder(passphrase: Secret, plain: Secret, workFactor: number): Promise<Buffer> {
  const answer = await inWorker({
    kind: 'encrypt',
    plain: plain.reveal(),
    passphrase: passphrase.reveal(),
    workFactor,
  });
  if (answer.kind !== 'encrypted') throw new TypeError('the passphrase worker answered something else');
  return Buffer.from(answer.file);
}

/** The text in an age file under a passphrase; undefined when it is another passphrase. */
export async function decryptUnder(passphrase: Secret, file: Uint8Array): Promise<Secret | undefined> {
  const answer = await inWorker({ kind: 'decrypt', file, passphrase: passphrase.reveal() });
  if (answer.kind !== 'decrypted') throw new TypeError('the passphrase worker answered something else');
  return answer.text === undefined ? undefined : new Secret(answer.text);
}

/** scrypt in age-encryption is synchronous; here it would stop every stream of the controller for a second. */
async function inWorker(task: PassphraseTask): Promise<PassphraseAnswer> {
  const worker = new Worker(new URL('./passphrase-worker.ts', import.meta.url), { workerData: task });
  const timeout = AbortSignal.timeout(PASSPHRASE_DEADLINE_MS);
  try {
    return await new Promise<PassphraseAnswer>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.once('exit', () => {
        reject(new Error('the passphrase worker ended without an answer'));
      });
      timeout.addEventListener('abort', () => {
        reject(new Error('the passphrase worker did not answer in time'));
      });
    });
  } finally {
    await worker.terminate();
  }
}
