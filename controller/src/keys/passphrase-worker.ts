import { parentPort, workerData } from 'node:worker_threads';
import { Decrypter, Encrypter } from 'age-encryption';
import type { PassphraseAnswer, PassphraseTask } from './age.ts';

parentPort?.postMessage(await perform(workerData as PassphraseTask));

async function perform(task: PassphraseTask): Promise<PassphraseAnswer> {
  switch (task.kind) {
    case 'encrypt': {
      const encrypter = new Encrypter();
      encrypter.setPassphrase(task.passphrase);
      encrypter.setScryptWorkFactor(task.workFactor);
      return { kind: 'encrypted', file: await encrypter.encrypt(task.plain) };
    }
    case 'decrypt': {
      const decrypter = new Decrypter();
      decrypter.addPassphrase(task.passphrase);
      try {
        return { kind: 'decrypted', text: await decrypter.decrypt(task.file, 'text') };
      } catch (error) {
        if (!(error instanceof Error) || !error.message.includes('no identity matched')) throw error;
        return { kind: 'decrypted', text: undefined };
      }
    }
  }
}
