// For `node --import`: loads the agent's programs from the directory HOLDFAST_BUNDLES, see bundles.ts.
import { existsSync, readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = path.resolve(import.meta.dirname, '../../..');

registerHooks({
  load(url, context, next) {
    if (!url.endsWith('.ts')) return next(url, context);
    const file = path.relative(root, fileURLToPath(url)).replace(/ts$/, 'js');
    const bundle = path.join(process.env.HOLDFAST_BUNDLES ?? '', file);
    if (!existsSync(bundle)) return next(url, context);
    return { format: 'module', source: readFileSync(bundle, 'utf8'), shortCircuit: true };
  },
});
