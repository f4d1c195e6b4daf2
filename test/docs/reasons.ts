import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { status } from '@grpc/grpc-js';
import { format, resolveConfig } from 'prettier';
import { reasons } from '@holdfast/common/reasons.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

/** The page whose table of reasons is made from the code. */
export const PAGE = path.join(ROOT, 'docs/orchestrators.md');

/** The page with the table as the code has it. */
export async function withReasons(page: string): Promise<string> {
  const source = await readFile(path.join(ROOT, 'common/src/reasons.ts'), 'utf8');
  const rows = Object.entries(reasons).map(
    ([reason, code]) => `| \`${reason}\` | ${status[code]} | ${meaningOf(source, reason)} |`,
  );
  const table = ['| reason | gRPC code | meaning |', '| --- | --- | --- |', ...rows].join('\n');
  const filled = page.replace(
    /<!-- reasons -->.*<!-- \/reasons -->/s,
    () => `<!-- reasons -->\n\n${table}\n\n<!-- /reasons -->`,
  );
  return await format(filled, { ...(await resolveConfig(PAGE)), parser: 'markdown' });
}

/** What the comment before a reason says; the reason itself in words where there is none. */
function meaningOf(source: string, reason: string): string {
  const [, comment] = new RegExp(`/\\*\\* ([^*]*) \\*/\\s+${reason}:`).exec(source) ?? [];
  if (comment !== undefined) return comment.replaceAll('|', '\\|');
  const words = reason.toLowerCase().replaceAll('_', ' ');
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
}

if (import.meta.main) await writeFile(PAGE, await withReasons(await readFile(PAGE, 'utf8')));
