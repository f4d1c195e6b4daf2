import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { build, type Plugin } from 'esbuild';
import { execa } from 'execa';
import { cached } from '../cache.ts';

const ROOT = path.resolve(import.meta.dirname, '../../..');

/** The programs that an agent consists of, and its controller and what people type. Another that it starts works too, and takes its time. */
const PROGRAMS = [
  'agent/src/main.ts',
  'agent/src/jobs/runner.ts',
  'agent/src/repository/helper.ts',
  'agent/src/mount/unmounter.ts',
  'agent/src/libvirt/thawer.ts',
  'agent/src/transport/pushEnder.ts',
  'agent/src/digests/reader.ts',
  'controller/src/main.ts',
  'cli/src/main.ts',
];

/**
 * A directory, in the cache, with each of the agent's programs as one file with all that it imports, under the same
 * path. An emulated processor takes half a minute to find, read and strip several hundred files for each process that
 * starts. loadBundle.js loads them in place of the sources, and they are compiled already.
 */
export async function agentBundles(): Promise<string> {
  const { outputFiles } = await build({
    absWorkingDir: ROOT,
    entryPoints: PROGRAMS,
    outbase: ROOT,
    outdir: '/',
    bundle: true,
    minifyWhitespace: true,
    minifySyntax: true,
    write: false,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    // Packages of CommonJS ask for Node's own modules by it.
    banner: {
      js: `import { createRequire as requireOf } from 'node:module'; const require = requireOf(import.meta.url);`,
    },
    plugins: [whereItWas],
  });
  const files = outputFiles.map(({ path: file, contents }) => ({ file, contents }));
  const digest = createHash('sha256');
  for (const { contents } of files) digest.update(contents);
  return cached(`agent-${digest.digest('hex').slice(0, 16)}`, async (target) => {
    for (const { file, contents } of files) {
      const place = path.join(target, file);
      await mkdir(path.dirname(place), { recursive: true });
      await writeFile(place, contents);
    }
    await compile(target);
  });
}

/** The environment in which Node runs the bundles. */
export function bundleEnvironment(bundles: string): Record<string, string> {
  return {
    HOLDFAST_BUNDLES: bundles,
    NODE_OPTIONS: `--import=${JSON.stringify(path.join(import.meta.dirname, 'loadBundle.js'))}`,
    NODE_COMPILE_CACHE: path.join(bundles, 'compiled'),
  };
}

/** Starts each program once, which ends at once for lack of arguments, and so fills Node's compile cache. */
async function compile(bundles: string): Promise<void> {
  for (const program of PROGRAMS) {
    await execa(process.execPath, [path.join(ROOT, program)], {
      env: bundleEnvironment(bundles),
      reject: false,
      timeout: 30_000,
    });
  }
}

/** What a file says of its own place stays true: programs and data are found beside it. */
const whereItWas: Plugin = {
  name: 'where-it-was',
  setup: (bundling) => {
    bundling.onLoad({ filter: /\.[cm]?[jt]s$/ }, async ({ path: file }) => ({
      contents: (await readFile(file, 'utf8'))
        .replaceAll('import.meta.url', JSON.stringify(pathToFileURL(file).href))
        .replaceAll('__dirname', JSON.stringify(path.dirname(file))),
      loader: file.endsWith('ts') ? 'ts' : 'js',
    }));
  },
};
